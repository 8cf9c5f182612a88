"""Modelfiles of Ollama: a GGUF file with its template, end tokens and parameters."""

from aprnb.conversion.ollama.modelfile import MODELFILE, require_free, require_possible, write_modelfile

__all__ = ["MODELFILE", "require_free", "require_possible", "write_modelfile"]
