"""Compares the merged file with the trained model: each trained weight, and the logits of the same tokens.

The file's logits differ from the trained model's because its weights are rounded, by more than a small adapter changes
them: they show no wrong scale. So each trained weight is held against the exact sum (`written_weights`), and then the
logits against those of the trained model with the file's weights in place of its own. Two modules of one class compute
equal logits from equal weights, bit for bit: what the file's module computes otherwise comes from its config or from a
weight that was not trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from aprnb.architecture import ContractReport, check
from aprnb.architecture.experts import from_module
from aprnb.architecture.weights import read_weight
from aprnb.dtype_names import TORCH_NAMES
from aprnb.errors import GateError
from aprnb.formats import Checkpoint, open_checkpoint
from aprnb.model.build import build_model
from aprnb.model.device import Placement
from aprnb.model.memory import free_bytes
from aprnb.phases import Counted, OnPhase, Phase, silent
from aprnb.tuning.results.saved_adapter import load_adapter
from aprnb.tuning.results.written_weights import CHECKING_MODEL, NOT_WRITTEN, dtype_in, require_sum, require_trained
from aprnb.tuning.training.lora import adapted_layers

EFFECT_LIMIT = 0.01
"""Of the adapter's effect on the logits. No difference was measured in any dtype, on CPUs; this is room for kernels
that repeat only nearly, and a tenth of the effect of a scale that is wrong by 10 %."""
RANGE_LIMIT = 1e-5
"""Of the logits' range, where all weights were trained and the base is gone: float32 has 7 digits."""
_COMPUTING = Phase(f"{CHECKING_MODEL}: computing its logits")

Probes = Sequence[Sequence[int]]
Logits = list[Tensor]


@dataclass(frozen=True)
class MergeCheck:
    """The largest absolute difference of a logit, the logits' range, and how many positions were compared.

    `adapter_effect` is the largest change of a logit by the adapter; None where all weights were trained.
    `beyond_rounding` is the largest difference from the trained model with the file's weights.
    """

    max_abs_difference: float
    logit_range: float
    positions: int
    adapter_effect: float | None = None
    beyond_rounding: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def compare_adapter(
    report: ContractReport,
    base: Checkpoint,
    adapter: Path,
    output: Path,
    placement: Placement,
    probes: Probes,
    on_phase: OnPhase = silent,
) -> MergeCheck:
    """Base + adapter, both from disk and unquantised, against the merged file."""
    placement = _fitting_placement(placement, report)
    model = load_adapter(build_model(base, report, placement, on_phase, f"{CHECKING_MODEL}: loading the base"), adapter)
    on_phase(_COMPUTING)
    trained = _logits(model, probes)
    with model.disable_adapter():
        effect = _difference(trained, _logits(model, probes))
        with open_checkpoint(output) as merged:
            _merge_in_memory(model, base, report, merged, on_phase)
        on_phase(_COMPUTING)
        expected = _logits(model, probes)
    del model
    return _compare(trained, expected, _merged_logits(output, placement, probes, on_phase), effect)


def compare_trained(
    module: Any, output: Path, placement: Placement, probes: Probes, on_phase: OnPhase = silent
) -> MergeCheck:
    """A fully trained module against the file that was written from it."""
    with open_checkpoint(output) as merged:
        weights = _weights_in(merged, module, placement.dtype, on_phase)
        on_phase(_COMPUTING)
        expected = _logits(module, probes, weights)
    return _compare(_logits(module, probes), expected, _merged_logits(output, placement, probes, on_phase))


@torch.no_grad()
def _merge_in_memory(
    model: Any, base: Checkpoint, report: ContractReport, merged: Checkpoint, on_phase: OnPhase
) -> None:
    """Replaces the weights under `model`'s adapters by the file's, and rounds all others to the file's dtypes.

    Raises GateError for a weight of the file that is not base + B·A · scale, as PEFT computes it.
    """
    written, weights = check(merged), _weights(model)
    layers = {_plain(name) + ".weight": layer for name, layer in adapted_layers(model).items()}
    count = Counted(on_phase, CHECKING_MODEL, len(report.weights))
    for name in report.weights:
        count()
        value = torch.from_numpy(read_weight(base, report, name))
        if name in layers:
            layer = layers[name]
            change = layer.get_delta_weight(layer.active_adapters[0]).detach().float().cpu()
            value = require_sum(name, merged, written, value, change)
        stored = value.to(getattr(torch, TORCH_NAMES[dtype_in(merged, written, name)]))
        target = from_module(weights, name)
        target.copy_(stored.reshape(target.shape))


@torch.no_grad()
def _weights_in(merged: Checkpoint, module: Any, dtype: torch.dtype, on_phase: OnPhase) -> Mapping[str, Tensor]:
    """The file's weights in `dtype`, under the names that the fully trained `module` has for them.

    Raises GateError for a weight that is not the module's, rounded to the file's dtype.
    """
    written, weights = check(merged), _weights(module)
    found = {name: torch.empty_like(weight, dtype=dtype) for name, weight in weights.items()}
    count = Counted(on_phase, CHECKING_MODEL, len(written.weights))
    for name in written.weights:
        count()
        target, trained = from_module(found, name), from_module(weights, name).detach().float().cpu()
        target.copy_(require_trained(name, merged, written, trained).reshape(target.shape))
    return found


def _weights(model: Any) -> dict[str, Tensor]:
    """The model's own parameters, under the names that they have without adapters."""
    return {_plain(name): one for name, one in model.named_parameters() if ".lora_" not in name}


def _plain(name: str) -> str:
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def _merged_logits(output: Path, placement: Placement, probes: Probes, on_phase: OnPhase) -> Logits:
    with open_checkpoint(output) as checkpoint:
        model = build_model(checkpoint, check(checkpoint), placement, on_phase, f"{CHECKING_MODEL}: loading it")
        on_phase(_COMPUTING)
        return _logits(model, probes)


def _fitting_placement(placement: Placement, report: ContractReport) -> Placement:
    """The run's GPU if the unquantised model fits there, else the CPU."""
    needed = 2.2 * report.parameters * placement.dtype.itemsize
    fits = placement.device.type != "cuda" or free_bytes(placement.device) >= needed
    return Placement(placement.device if fits else torch.device("cpu"), placement.dtype)


@torch.no_grad()
def _logits(model: Any, probes: Probes, weights: Mapping[str, Tensor] | None = None) -> Logits:
    """The logits [T, vocab] of each probe, with other weights in place of the model's own where they are given."""
    model.eval()
    device = next(model.parameters()).device
    rows = (torch.tensor([list(ids)], device=device) for ids in probes)
    outputs = (functional_call(model, dict(weights or {}), (row,), {"use_cache": False}) for row in rows)
    return [output.logits[0].float().cpu() for output in outputs]


def _difference(some: Logits, others: Logits) -> float:
    return max((one - other).abs().max().item() for one, other in zip(some, others, strict=True))


def _compare(trained: Logits, expected: Logits, found: Logits, effect: float | None = None) -> MergeCheck:
    """The comparison of the file's logits; GateError where they are not the expected ones."""
    span = max(one.max().item() for one in trained) - min(one.min().item() for one in trained)
    beyond = _difference(expected, found)
    limit = RANGE_LIMIT * span if effect is None else EFFECT_LIMIT * effect
    if not beyond <= limit:
        of = f"the logits' range {span:.3g}" if effect is None else f"the adapter's effect {effect:.3g}"
        raise GateError(
            f"the merged model's logits differ by up to {beyond:.3g} from those of the trained model with the same "
            "weights",
            expected=f"at most {limit:.3g}, from {of}",
            action=NOT_WRITTEN,
        )
    return MergeCheck(_difference(trained, found), span, sum(map(len, trained)), effect, beyond)
