"""How long a run takes, by what it does (no torch)."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class SecondsPlan:
    """Seconds from the plan to the last file, expected from a short measurement.

    Attributes:
        load: reading, decoding and placing the base, attaching adapters, the checks before the first step.
        steps: all optimizer steps.
        evaluations: all evaluations of the held-out rows.
        saves: all saved states.
        merge: writing adapter and tuned model.
        check: comparing the written model with the trained one.
    """

    load: float
    steps: float
    evaluations: float
    saves: float
    merge: float
    check: float

    @property
    def total(self) -> float:
        """The sum of all."""
        return sum(dataclasses.astuple(self))

    def rest(self, share: float) -> SecondsPlan:
        """Of a run that is resumed with this share of its steps to do."""
        parts = {name: share * getattr(self, name) for name in ("steps", "evaluations", "saves")}
        return dataclasses.replace(self, **parts)

    def to_json(self) -> dict[str, float]:
        """The parts by name, and their total."""
        parts = {**dataclasses.asdict(self), "total": self.total}
        return {name: round(value, 3) for name, value in parts.items()}


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What the plan expects of one step, one evaluation, one saved state, and of all after the last step, in seconds.

    `evaluated` and `saved` are the steps that an evaluation and a saved state follow. Without a plan `step` is None.
    """

    step: float | None = None
    evaluation: float = 0.0
    save: float = 0.0
    results: float = 0.0
    evaluated: frozenset[int] = frozenset()
    saved: frozenset[int] = frozenset()
