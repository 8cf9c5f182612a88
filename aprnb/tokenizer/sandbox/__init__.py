"""Child processes with limits on time and memory, in which untrusted tokenizers and chat templates run."""
