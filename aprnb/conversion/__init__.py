"""Conversion between Hugging Face folders, safetensors, GGUF and `.apr`, in every direction."""

from aprnb.conversion.convert import convert
from aprnb.conversion.converted import Converted

__all__ = ["Converted", "convert"]
