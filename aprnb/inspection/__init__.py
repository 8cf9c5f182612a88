"""Reports on checkpoints and on the memory a run needs; no torch."""

from aprnb.inspection.report import Report, inspect

__all__ = ["Report", "inspect"]
