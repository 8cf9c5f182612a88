"""What has to be equal for a saved state to be resumed (no torch)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aprnb.errors import UsageProblem


@dataclass(frozen=True)
class Identity:
    """The recipe's numbers, and hashes of data and base.

    An empty `base` is compared later: the content is known only after loading.
    """

    recipe: Mapping[str, Any]
    data: str
    base: str


def check_identity(saved: Identity, present: Identity, where: str) -> None:
    """Raises UsageProblem with the first difference."""
    wanted = json.loads(json.dumps(dict(present.recipe)))
    for name in sorted(saved.recipe.keys() | wanted.keys()):
        if name not in saved.recipe or name not in wanted or saved.recipe[name] != wanted[name]:
            before, now = (recipe.get(name, "no such option") for recipe in (saved.recipe, wanted))
            found = f"--{name.replace('_', '-')} is {now}; the saved run has {before}"
            raise UsageProblem(found, where=where, action="resume with the recipe of the saved run, or start a new one")
    for name in ("data", "base"):
        if getattr(present, name) and getattr(saved, name) != getattr(present, name):
            what = {"data": "the training rows", "base": "the base checkpoint"}[name]
            raise UsageProblem(
                f"{what} changed since the state was saved", where=where, action="start a new run (without --resume)"
            )
