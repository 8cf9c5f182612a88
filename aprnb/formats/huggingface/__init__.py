"""Hugging Face folders and safetensors files: config, index, shards, tokenizer.json."""
