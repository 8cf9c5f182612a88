"""Conversion between Hugging Face folders, safetensors, GGUF and `.apr`, in every direction."""

from aprnb.conversion.convert import convert, plan_conversion
from aprnb.conversion.converted import Converted
from aprnb.conversion.plan import ConversionPlan

__all__ = ["ConversionPlan", "Converted", "convert", "plan_conversion"]
