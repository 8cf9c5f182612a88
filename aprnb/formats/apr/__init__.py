"""The `.apr` container: header, metadata, tensor index, shards, legacy containers, writer."""
