"""Reports on checkpoints and on the memory a run needs; no torch."""

from aprnb.inspection.foreign import ForeignReport
from aprnb.inspection.report import Report, inspect

__all__ = ["ForeignReport", "Report", "inspect"]
