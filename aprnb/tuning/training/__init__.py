"""The training loop and its parts: batches, loss, LoRA, optimizer, gates, state."""
