"""Models and LoRA adapters as GGUF files for llama.cpp."""
