"""Several runs of one recipe, one for each combination of the options that are varied (no torch)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aprnb.errors import Interrupted, UsageProblem
from aprnb.option_values import read_value
from aprnb.tuning.planning.recipe import Recipe
from aprnb.tuning.planning.recipe_reader import known_option
from aprnb.tuning.results.places import places
from aprnb.tuning.runs import Runs

if TYPE_CHECKING:
    from aprnb.tuning.results.run import Run

MOST_RUNS = 64
_VARIED = frozenset(Recipe.__dataclass_fields__) - {"task", "chat_template"}
_UNSAFE = re.compile(r"[^A-Za-z0-9.,+_=-]")


class Sweep(Runs):
    """The runs of a sweep, in the order of their options; its verdict is that of its last run."""

    @property
    def exit_code(self) -> int:
        """130 where the sweep was interrupted, else that of the worst run."""
        return max(run.exit_code for run in self.runs)


def read_sweep(value: str | Mapping[str, Any], where: str = "--sweep") -> dict[str, tuple[Any, ...]]:
    """Option → its values, from `learning_rate=1e-4,3e-4 rank=8,32` or a table of lists.

    Raises UsageProblem for an option that is not one of the recipe's, a value that it does not take, or more than 64
    combinations.
    """
    pairs = _pairs(value, where) if isinstance(value, str) else list(value.items())
    found: dict[str, tuple[Any, ...]] = {}
    for written, values in pairs:
        option = known_option(written, where)
        if option.name not in _VARIED:
            raise UsageProblem(f"{where} of {option.name}", expected=f"some of {', '.join(sorted(_VARIED))}")
        if option.name in found or not isinstance(values, list | tuple) or not values:
            raise UsageProblem(f"{where} {written}", expected="each option once, with its values: rank=8,32")
        found[option.name] = tuple(dict.fromkeys(read_value(option, each, where) for each in values))
    runs = 1
    for each in found.values():
        runs *= len(each)
    if not found or runs > MOST_RUNS:
        raise UsageProblem(f"{where} gives {runs if found else 0:,} runs", expected=f"1 to {MOST_RUNS}")
    return found


def _pairs(text: str, where: str) -> list[tuple[str, list[str]]]:
    parts = [part.partition("=") for part in text.split()]
    if not all(sign and values for _, sign, values in parts):
        raise UsageProblem(f"{where} {text!r}", expected="options and their values: learning_rate=1e-4,3e-4 rank=8,32")
    return [(name, [each for each in values.split(",") if each]) for name, _, values in parts]


def combinations(
    base: str | os.PathLike[str] | None, given: Mapping[str, Any], varied: Mapping[str, Sequence[Any]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is varied, in words, and the options of each run; the outputs are `OUTPUT-rank=8-….apr`, side by side."""
    output = places(given.get("output"), Path(base or "model")).output
    for values in product(*varied.values()):
        chosen = dict(zip(varied, values, strict=True))
        words = [f"{name}={_word(value)}" for name, value in chosen.items()]
        name = "-".join([output.stem, *(_UNSAFE.sub("_", word) for word in words)])
        yield " ".join(words), {**given, **chosen, "output": str(output.with_name(f"{name}.apr"))}


def _word(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def sweep(
    base: str | os.PathLike[str] | None,
    given: Mapping[str, Any],
    varied: Mapping[str, Sequence[Any]],
    run: Callable[[str, dict[str, Any]], Run],
) -> Sweep:
    """Calls `run` with the words and options of each combination, one after the other, and returns the runs.

    A run that was interrupted ends the sweep, with its state saved. Raises what a run raises.
    """
    done: list[Run] = []
    wanted = list(combinations(base, given, varied))
    for number, (words, options) in enumerate(wanted, 1):
        done.append(run(f"run {number} of {len(wanted)}: {words}", options))
        if done[-1].exit_code == Interrupted.exit_code:
            break
    return Sweep(tuple(done), named=len(done) > 1)
