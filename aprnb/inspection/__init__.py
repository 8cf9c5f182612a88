"""Reports on checkpoints; no torch."""

from aprnb.inspection.foreign import ForeignReport
from aprnb.inspection.report import Report, inspect
from aprnb.inspection.statistics import Statistics, tensor_statistics

__all__ = ["ForeignReport", "Report", "Statistics", "inspect", "tensor_statistics"]
