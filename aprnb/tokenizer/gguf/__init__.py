"""A checkpoint's tokenizer in the keys of GGUF, and what those keys cannot state."""
