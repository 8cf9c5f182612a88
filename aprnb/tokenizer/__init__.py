"""Tokenizers and chat templates of checkpoints: what a file states, which tokenizer is built, and in which process."""
