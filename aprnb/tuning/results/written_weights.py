"""Compares the weights of a merged file, element by element, with base + adapter or with the trained weights.

Logits alone do not show a wrong scale: half of a small adapter moves them by less than rounding does. Each element has
to be the exact sum within the rounding of its dtype, plus a ten-thousandth of the adapter's largest change.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from aprnb.adapters import AdapterFiles, Change, LowRank
from aprnb.adapters.config import AdapterConfig
from aprnb.architecture import ContractReport, check
from aprnb.architecture.weights import read_weight
from aprnb.errors import GateError
from aprnb.formats import Checkpoint, open_checkpoint
from aprnb.phases import Counted, OnPhase, silent

CHECKING_MODEL = "checking the model"
NOT_WRITTEN = "no merged model is written; the adapter and the saved state are kept"
_DIGITS = {"F32": (24, 2.0**-150), "BF16": (8, 2.0**-134), "F16": (11, 2.0**-25)}
"""Binary digits of a dtype, and half of its smallest positive number: rounding changes a value by at most half a unit
in the last digit (IEEE 754, section 4.3.1)."""
_EXPONENT = 0x7FF << 52
"""The bits of a float64 that hold its exponent."""
CACHED_ELEMENTS = 1 << 16
_ARITHMETIC = 1e-4
"""Of an adapter's largest change: two float32 sums of up to some thousand products in different orders."""


def compare_changes(
    adapter: AdapterFiles,
    changes: Mapping[str, Change],
    base: Checkpoint,
    report: ContractReport,
    output: Path,
    on_phase: OnPhase = silent,
) -> None:
    """Each weight of the merged file that the adapter changes; no model is built.

    Plain products are computed anew, from the config's own numbers. Raises GateError.
    """
    count = Counted(on_phase, CHECKING_MODEL, len(changes))
    with open_checkpoint(output) as merged:
        written = check(merged)
        for name, change in changes.items():
            count()
            before = torch.from_numpy(read_weight(base, report, name))
            if isinstance(change, LowRank):
                product = torch.from_numpy(change.left) @ torch.from_numpy(change.right)
                require_sum(name, merged, written, before, product.mul_(_stated_scale(adapter.config, change)))
            else:
                after = torch.from_numpy(change(0, before.numpy().reshape(-1))).reshape(before.shape)
                effect = (after - before).abs().max().item()
                _require(name, merged, written, after, torch.zeros(1).expand_as(after), effect)


def _stated_scale(config: AdapterConfig, change: LowRank) -> float:
    """alpha / r, or over the root of r; where patterns state others, the change's own."""
    if config.ranks or config.alphas:
        return change.scale
    root = config.values.get("use_rslora") is True
    return float(config.values["lora_alpha"] / (change.rank**0.5 if root else change.rank))


def require_sum(name: str, merged: Checkpoint, written: ContractReport, base: Tensor, change: Tensor) -> Tensor:
    """The file's weight [elements]; raises GateError where it is not base + change, rounded to the file's dtype."""
    return _require(name, merged, written, base, change, change.abs().max().item())


def require_trained(name: str, merged: Checkpoint, written: ContractReport, trained: Tensor) -> Tensor:
    """The file's weight [elements]; raises GateError where it is not the trained one, rounded to the file's dtype."""
    return _require(name, merged, written, trained, torch.zeros(1).expand_as(trained), None)


def dtype_in(merged: Checkpoint, written: ContractReport, name: str) -> str:
    """The dtype of the file's tensor that is the weight `name`: F32, F16 or BF16."""
    return merged.tensors[written.weights[name]].dtype.name


def _require(
    name: str, merged: Checkpoint, written: ContractReport, base: Tensor, change: Tensor, effect: float | None
) -> Tensor:
    """The file's weight; raises GateError for an element that is not base + change within rounding, in float64.

    `effect` is the adapter's largest change; None where there is no adapter.
    """
    dtype = dtype_in(merged, written, name)
    found = torch.from_numpy(read_weight(merged, written, name)).reshape(-1)
    parts = (one.reshape(-1).split(CACHED_ELEMENTS) for one in (base, change, found))
    for before, added, after in zip(*parts, strict=True):
        error, excess = compare_sum(before, added, after, dtype, effect or 0.0)
        if not excess <= 0:
            raise _other_weight(name, dtype, error, effect)
    return found


def compare_sum(before: Tensor, added: Tensor, after: Tensor, dtype: str, effect: float) -> tuple[float, float]:
    """The largest error of `after` as the sum, and by how much an error exceeds what rounding to `dtype` explains."""
    wanted = before.double() + added
    error = (after - wanted).abs_()
    excess = error - (_half_unit(wanted, dtype) + _ARITHMETIC * effect)
    return error.max().item(), excess.max().item()


def _half_unit(values: Tensor, dtype: str) -> Tensor:
    """The largest change of each float64 value when it is rounded to `dtype`."""
    digits, least = _DIGITS[dtype]
    below = (values.view(torch.int64) & _EXPONENT).view(torch.float64)  # the power of two at or below each value
    return below.mul_(1.01 * 2.0**-digits).clamp_(min=least)


def _other_weight(name: str, dtype: str, error: float, effect: float | None) -> GateError:
    source = "the trained weights" if effect is None else "base + adapter"
    found = f"the merged {name} differs from {source} by up to {error:.3g}, which rounding to {dtype} does not explain"
    if effect is None:
        return GateError(found, expected="the trained weights", action=NOT_WRITTEN)
    return GateError(
        f"{found}; the adapter changes it by up to {effect:.3g}",
        expected="base + alpha / rank · B·A",
        action=NOT_WRITTEN,
    )
