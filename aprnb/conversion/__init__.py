"""One checkpoint as another: Hugging Face folders, safetensors, GGUF and `.apr`, each into each."""

from aprnb.conversion.convert import Converted, convert

__all__ = ["Converted", "convert"]
