"""The checks of gpu_smoke.py."""
