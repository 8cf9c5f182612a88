"""`--model-size`: a name such as 8B, compared with the file's parameter count (no torch)."""

from __future__ import annotations

import os
import re
from decimal import Decimal

from aprnb.errors import ArchitectureError, UsageProblem
from aprnb.units import count_text

_MOST_CHARACTERS = 16
_UNITS = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def parse_model_size(text: str) -> tuple[Decimal, Decimal]:
    """`"0.6B"` → (600000000, 100000000): the count it means and the value of its last non-zero digit."""
    match = re.fullmatch(r"(\d+)(?:\.(\d+))?\s*([KMBT])", text.strip().upper())
    if not match or len(text) > _MOST_CHARACTERS or Decimal(f"{match[1]}.{match[2] or 0}") == 0:
        raise UsageProblem(f"--model-size {text!r}", expected="a count such as 8B, 0.6B or 600M")
    whole, part, unit = match[1], (match[2] or "").rstrip("0"), Decimal(_UNITS[match[3]])
    digits = (whole + part).rstrip("0")
    named = Decimal(f"{whole}.{part or 0}") * unit
    return named, named / int(digits)


def size_fits(text: str, parameters: int) -> bool:
    """Whether a model of `parameters` is commonly called `text`.

    Names are rounded (Qwen3-0.6B has 0.596e9) or cut (Qwen2.5-7B has 7.62e9, Llama-3.2-1B has 1.24e9). So a count fits
    from half a unit of the last digit below the name up to one whole unit above it, and differs by less than a quarter.
    """
    named, unit = parse_model_size(text)
    lowest = max(named - unit / 2, named * 3 / 4)
    highest = min(named + unit, named * 5 / 4)
    return lowest <= parameters < highest


def check_model_size(text: str | None, *counts: int) -> None:
    """Compares `--model-size` with the file: `counts` are its parameters, with and without a tied head.

    Raises ArchitectureError with both sizes. None is not compared.
    """
    if text is None or any(size_fits(text, count) for count in counts):
        return
    named, _ = parse_model_size(text)
    raise ArchitectureError(
        f"--model-size {text} means {count_text(int(named))} parameters; the file has {count_text(counts[0])}",
        action="omit --model-size (the file decides), or open a checkpoint of that size",
    )


def size_without_file(text: str) -> UsageProblem:
    """The error for `--model-size` where no file describes the model."""
    parse_model_size(text)
    return UsageProblem(
        f"--model-size {text} without a checkpoint: a size does not identify a model",
        action="give the path of a checkpoint, such as model.apr (`apr import` makes one from a model)",
    )


def require_named(model: str | os.PathLike[str] | None, model_size: str | None) -> str | os.PathLike[str]:
    """The checkpoint's path; raises UsageProblem where none is given."""
    if model is not None:
        return model
    if model_size:
        raise size_without_file(model_size)
    raise UsageProblem("no checkpoint is given", action="give the path of a checkpoint, such as model.apr")
