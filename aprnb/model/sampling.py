"""How the next token is chosen: the most likely one, or a random one (no torch)."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from aprnb.option_values import read_value
from aprnb.options import OPTIONS

_GREEDY_BELOW = 1e-5
"""Smaller temperatures leave only the most likely token, and dividing by them overflows."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """`seed` is None for greedy decoding; the other fields mean what the options of these names say."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    seed: int | None


def choose_sampling(
    temperature: float | None,
    top_p: float | None,
    top_k: int | None,
    min_p: float | None,
    repetition_penalty: float | None,
    seed: int | None,
) -> Sampling:
    """Greedy unless a temperature, top-p, top-k or min-p is given; the temperature is then 1 unless given.

    A seed is drawn where sampling needs one and none is given. Raises UsageProblem for a value out of range.
    """
    given = {
        name: read_value(OPTIONS[name], value)
        for name, value in (
            ("temperature", temperature), ("top_p", top_p), ("top_k", top_k), ("min_p", min_p),
            ("repetition_penalty", repetition_penalty), ("sampling_seed", seed),
        )
        if value is not None
    }  # fmt: skip
    samples = any(name in given for name in ("temperature", "top_p", "top_k", "min_p"))
    heat: Any = given.get("temperature", 1.0)
    drawn = given.get("sampling_seed", secrets.randbelow(1 << 32))
    return Sampling(
        temperature=heat,
        top_p=given.get("top_p", 1.0),
        top_k=given.get("top_k", 0),
        min_p=given.get("min_p", 0.0),
        repetition_penalty=given.get("repetition_penalty", 1.0),
        seed=drawn if samples and heat >= _GREEDY_BELOW else None,
    )
