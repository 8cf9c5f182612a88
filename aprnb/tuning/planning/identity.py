"""What has to be equal for a saved state to be resumed (no torch)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aprnb.errors import UsageProblem


@dataclass(frozen=True)
class Identity:
    """The recipe's numbers, hashes of data and base, and the number of optimizer steps in all.

    `data` is three hashes with colons between: of the rows, of the chat template, of the tokens and labels.
    An empty `base` is compared later: the content is known only after loading.
    """

    recipe: Mapping[str, Any]
    data: str
    base: str
    total_steps: int


_DATA = ("the training rows", "the chat template", "the tokenizer")
_START = "start_adapter"
_LENGTH = frozenset(("epochs", "max_steps"))


def is_longer(saved: Identity, present: Identity, step: int) -> bool:
    """Whether `present` trains a finished run on: `step`, the last one of `saved`, is not its own last."""
    return step == saved.total_steps < present.total_steps


def check_identity(saved: Identity, present: Identity, step: int, where: str) -> None:
    """Raises UsageProblem with the first difference between the run that saved its `step` and the present one.

    A run that was finished may be trained on: with more epochs, and the rest as it was.
    """
    wanted = json.loads(json.dumps(dict(present.recipe)))
    _require_same_start(saved.recipe.get(_START), wanted.get(_START), where)
    free = _LENGTH if is_longer(saved, present, step) else ()
    for name in (*wanted, *sorted(saved.recipe.keys() - wanted.keys())):  # a rank before the alpha that follows from it
        if name in free:
            continue
        if name not in saved.recipe or name not in wanted or saved.recipe[name] != wanted[name]:
            before, now = (recipe.get(name, "no such option") for recipe in (saved.recipe, wanted))
            found = f"--{name.replace('_', '-')} is {now}; the saved run has {before}"
            raise UsageProblem(found, where=where, action="resume with the recipe of the saved run, or start a new one")
    what = _changed(saved, present)
    if what:
        raise UsageProblem(
            f"{what} changed since the state was saved", where=where, action="start a new run (without --resume)"
        )


def _require_same_start(saved: str | None, present: str | None, where: str) -> None:
    """Raises UsageProblem where the two runs began with different adapters, by their SHA-256; "" is none."""
    if (saved or "") == (present or ""):
        return
    now = "another adapter than the saved run" if saved else "an adapter, the saved run with a new one"
    found = f"this run begins with {now}" if present else "the saved run began with an adapter, none is given here"
    raise UsageProblem(found, where=where, action="give the --adapter of the saved run, or start a new one")


def _changed(saved: Identity, present: Identity) -> str | None:
    if saved.data != present.data:
        parts = zip(_DATA, saved.data.split(":"), present.data.split(":"), strict=False)
        return next((name for name, before, now in parts if before != now), _DATA[0])
    return "the base checkpoint" if present.base and saved.base != present.base else None
