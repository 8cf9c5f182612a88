"""Training rows: reading, encoding, labels, packing (no torch)."""
