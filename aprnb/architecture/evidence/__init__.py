"""What each source states about the architecture: shapes, overrides, configs, metadata, the keys of GGUF."""
