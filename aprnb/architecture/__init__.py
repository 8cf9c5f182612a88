"""The architecture of a checkpoint, and the comparison of its tensors with it."""

from aprnb.architecture.architecture import Architecture, ExpectedTensor, expected_tensors, parameter_count
from aprnb.architecture.contract import check, check_contract
from aprnb.architecture.contract_report import ContractReport, ContractRow, Violation
from aprnb.architecture.families import FAMILIES, Family, family_named
from aprnb.architecture.resolve import resolve

__all__ = [
    "FAMILIES",
    "Architecture",
    "ContractReport",
    "ContractRow",
    "ExpectedTensor",
    "Family",
    "Violation",
    "check",
    "check_contract",
    "expected_tensors",
    "family_named",
    "parameter_count",
    "resolve",
]
