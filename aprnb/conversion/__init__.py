"""One checkpoint as another: Hugging Face folders, safetensors, GGUF and `.apr`, each into each."""

from aprnb.conversion.convert import convert
from aprnb.conversion.converted import Converted

__all__ = ["Converted", "convert"]
