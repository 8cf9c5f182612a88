"""Reports on checkpoints; no torch."""

from aprnb.inspection.adapter import AdapterReport
from aprnb.inspection.make_report import inspect
from aprnb.inspection.report import Report
from aprnb.inspection.statistics import Statistics, tensor_statistics
from aprnb.inspection.unsupported import UnsupportedReport

__all__ = ["AdapterReport", "Report", "Statistics", "UnsupportedReport", "inspect", "tensor_statistics"]
