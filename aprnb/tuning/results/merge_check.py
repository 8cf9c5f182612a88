"""Compares the logits of the merged file and of the trained model on the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from aprnb.architecture import ContractReport, check
from aprnb.errors import GateError
from aprnb.formats import Checkpoint, open_checkpoint
from aprnb.model.build import build_model
from aprnb.model.device import Placement
from aprnb.tuning.results.saved_adapter import load_adapter

LIMIT = 0.03
"""Of the logits' range. Rounding weights to bfloat16 moves logits by a few thousandths; a wrong merge by far more."""


@dataclass(frozen=True)
class MergeCheck:
    """The largest absolute difference of a logit, the logits' range, and how many positions were compared."""

    max_abs_difference: float
    logit_range: float
    positions: int

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def compare_adapter(
    report: ContractReport,
    base: Checkpoint,
    adapter: Path,
    output: Path,
    placement: Placement,
    probes: Sequence[Sequence[int]],
) -> MergeCheck:
    """Base + adapter, both from disk and unquantised, against the merged file."""
    placement = _fitting_placement(placement, report)
    wanted = _logits(load_adapter(build_model(base, report, placement), adapter), probes)
    return _compare(wanted, _merged_logits(output, placement, probes))


def compare_trained(module: Any, output: Path, placement: Placement, probes: Sequence[Sequence[int]]) -> MergeCheck:
    """A fully trained module against the file that was written from it."""
    return _compare(_logits(module, probes), _merged_logits(output, placement, probes))


def _merged_logits(output: Path, placement: Placement, probes: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    with open_checkpoint(output) as checkpoint:
        return _logits(build_model(checkpoint, check(checkpoint), placement), probes)


def _fitting_placement(placement: Placement, report: ContractReport) -> Placement:
    """The run's GPU if the unquantised model fits there, else the CPU."""
    if placement.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(placement.device)
        if free < 2.2 * report.parameters * placement.dtype.itemsize:
            return Placement(torch.device("cpu"), placement.dtype)
    return Placement(placement.device, placement.dtype)


@torch.no_grad()
def _logits(model: Any, probes: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    model.eval()
    device = next(model.parameters()).device
    return [model(torch.tensor([list(ids)], device=device), use_cache=False).logits[0].float().cpu() for ids in probes]


def _compare(wanted: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> MergeCheck:
    difference = max((one - other).abs().max().item() for one, other in zip(wanted, found, strict=True))
    span = max(one.max().item() for one in wanted) - min(one.min().item() for one in wanted)
    check = MergeCheck(difference, span, sum(len(one) for one in wanted))
    if not difference <= LIMIT * span:
        raise GateError(
            f"the merged model's logits differ from those of the trained model by up to {difference:.3g}",
            expected=f"at most {LIMIT:.0%} of their range {span:.3g}",
            action="no merged model is written; the adapter and the saved state are kept",
        )
    return check
