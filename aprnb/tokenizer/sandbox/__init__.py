"""Child processes with a clock and a memory limit, in which untrusted tokenizers and chat templates run."""
