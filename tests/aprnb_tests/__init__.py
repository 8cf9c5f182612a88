"""What several tests build files with."""
