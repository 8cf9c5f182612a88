"""The GGUF container: reader, metadata in `.apr` keys, writer."""
