"""Several runs side by side: their table, their curves, and what differs between them (no torch)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aprnb.display.bundle import Displayed
from aprnb.display.curve import figure_png
from aprnb.display.curves import MOST_CURVES, loss_curves
from aprnb.display.document import Block, Cell, Column, Details, Document, Messages, Paragraph, Picture, Table
from aprnb.errors import AprnbError, FileMissing, UsageProblem
from aprnb.printable import first_names, visible
from aprnb.tuning.results.history import best_evaluated, concerns, written_evaluated
from aprnb.tuning.results.run import Run, open_run
from aprnb.units import bytes_text, duration_text

if TYPE_CHECKING:
    import pandas

MOST_RUNS, _MOST_COMPARED = 200, 8
_OF_THE_CALL = frozenset(("output", "force", "resume", "plan", "verbose", "keep", "save_every"))
_RESULTS = (
    "status", "steps", "loss", "held-out loss", "lowest held-out loss", "lowest after step", "tokens", "time",
    "peak memory", "size",
)  # fmt: skip
_COLUMNS = (
    Column("run"), Column("status"), Column("model"), Column("method"), Column("rank", "right"),
    Column("learning rate", "right"), Column("steps", "right"), Column("loss", "right"),
    Column("held-out loss", "right"), Column("its lowest", "right"), Column("time", "right"), Column("size", "right"),
)  # fmt: skip


@dataclass(frozen=True)
class Runs(Displayed):
    """Runs in the order of their folders' names, or in the order in which they were named.

    Attributes:
        runs: each is live: its numbers are those of the moment in which they are asked for.
        unreadable: a line for each folder that could not be read as a run.
        named: whether each was asked for by name, so that the card also compares them option by option.
    """

    runs: tuple[Run, ...]
    unreadable: tuple[str, ...] = ()
    named: bool = False

    @property
    def best(self) -> Run | None:
        """The run whose written weights, its last ones, have the lowest held-out loss.

        None where the runs were evaluated on different rows, or not at all.
        """
        losses = [(found.loss, at) for at, run in enumerate(self.runs) if (found := written_evaluated(run.history))]
        same_rows = {repr(self.runs[at].history.start.get("rows_sha256")) for _, at in losses}
        return self.runs[min(losses)[1]] if losses and len(same_rows) == 1 else None

    @property
    def frame(self) -> pandas.DataFrame:
        """One row per run: its options and its results."""
        import pandas

        return pandas.DataFrame([{"run": str(run.where.run), **_recipe(run), **_results(run)} for run in self.runs])

    def to_json(self) -> dict[str, Any]:
        """Recipe and result of each run."""
        return {
            "runs": [{**run.to_json(), "recipe": _recipe(run)} for run in self.runs],
            "best": str(self.best.where.run) if self.best else None,
            "unreadable": list(self.unreadable),
        }

    def document(self) -> Document:
        """Table, curves, and for named runs what differs."""
        title = f"{len(self.runs)} run" + "s" * (len(self.runs) != 1)
        if not self.runs:
            return Document(title, None, (Paragraph("no run here; a run is a folder NAME.run"), *self._problems()))
        names, results = _names(self.runs), [_results(run) for run in self.runs]
        best = self.best if len(self.runs) > 1 else None
        rows = tuple(
            _row(name, run, result, is_best=run is best)
            for name, run, result in zip(names, self.runs, results, strict=True)
        )
        blocks: list[Block] = [Table("Runs", _COLUMNS, rows)]
        if best:
            blocks.insert(0, Paragraph(_best_text(names[self.runs.index(best)], best)))
        past = tuple(
            f"{name}: {text}" for name, run in zip(names, self.runs, strict=True) for text in concerns(run.history)
        )
        drawn = [
            (name, run.history.steps, run.history.evaluations)
            for name, run in zip(names, self.runs, strict=True)
            if run.history.steps
        ]
        if drawn:
            words = "losses by step: " + first_names([name for name, *_ in drawn], MOST_CURVES)
            blocks.append(Picture(figure_png(loss_curves(drawn)), words))
        if 1 < len(self.runs) <= _MOST_COMPARED:
            compared = _differences(names, self.runs, results)
            blocks += compared if self.named else [Details("What differs", tuple(compared))]
        return Document(title, None, (*blocks, *([Messages("warning", past)] if past else []), *self._problems()))

    def _problems(self) -> tuple[Messages, ...]:
        return (Messages("warning", self.unreadable),) if self.unreadable else ()


def open_runs(*folders: str | os.PathLike[str]) -> Runs:
    """Open every run in a folder, or the runs that are named.

    Args:
        folders: folders of runs (NAME.run), or folders that contain such; the working folder unless given.

    Returns:
        The `Runs`, with a table of status, options and losses, and all curves in one picture. Two or more runs that
        are named are also compared option by option.

    Raises:
        FileMissing: no such folder.
        UsageProblem: more than 200 runs.

    Example:
        >>> run = aprnb.finetune("pocket-qwen3.apr", data="rows.jsonl", rank=4, max_steps=2, adapter_only=True)
        >>> [run.status for run in aprnb.open_runs().runs]
        ['finished']
    """
    paths: list[Path] = []
    for folder in map(Path, folders or (".",)):
        if not folder.is_dir():
            raise FileMissing(f"no folder {folder}", action="give the folder of a run, NAME.run, or one that has runs")
        paths += [folder] if folder.suffix == ".run" else sorted(each for each in folder.glob("*.run") if each.is_dir())
    if len(paths) > MOST_RUNS:
        raise UsageProblem(f"{len(paths):,} runs", expected=f"at most {MOST_RUNS}", action="name those to compare")
    runs, unreadable = [], []
    for path in paths:
        try:
            run = open_run(path)  # checks the plan
            _ = run.history
        except AprnbError as error:
            unreadable.append(f"{path}: {error.found}")
        else:
            runs.append(run)
    named = len(runs) > 1 and all(Path(folder).suffix == ".run" for folder in folders)
    return Runs(tuple(runs), tuple(unreadable), named and bool(folders))


def _names(runs: tuple[Run, ...]) -> list[str]:
    """The folders' names without their ending; with the path where two are the same."""
    stems = [run.where.run.stem for run in runs]
    return stems if len(set(stems)) == len(stems) else [str(run.where.run.with_suffix("")) for run in runs]


def _recipe(run: Run) -> dict[str, Any]:
    """The settled options of a run, without those that only concern the call."""
    found = run.plan.to_json().get("recipe")
    options = found.items() if isinstance(found, Mapping) else ()
    return {name: value for name, value in options if name not in _OF_THE_CALL}


def _best_text(name: str, run: Run) -> str:
    """Which run is the best by what it wrote."""
    written = written_evaluated(run.history)
    assert written
    return f"lowest held-out loss: {name} ({written.loss:.4f} for what it wrote, that of step {written.step})"


def _results(run: Run) -> dict[str, Any]:
    found, steps = run.to_json(), run.history.steps
    written, best = written_evaluated(run.history), best_evaluated(run.history)
    return {
        "status": found["status"],
        "steps": found["steps"],
        "loss": steps[-1]["loss"] if steps else None,
        "held-out loss": written.loss if written else None,
        "lowest held-out loss": best.loss if best else None,
        "lowest after step": best.step if best else None,
        "tokens": found["tokens"],
        "time": duration_text(steps[-1]["elapsed_s"]) if steps else None,
        "peak memory": bytes_text(found["peak_memory_bytes"]) if found["peak_memory_bytes"] else None,
        "size": bytes_text(_size(run)),
    }


def _size(run: Run) -> int:
    """Bytes of the run's folder and of what it wrote."""
    total = 0
    for path in filter(None, (run.where.run, run.output, run.adapter)):
        inside = path.rglob("*") if path.is_dir() else (path,)
        total += sum(each.stat().st_size for each in inside if each.is_file() and not each.is_symlink())
    return total


def _row(name: str, run: Run, result: Mapping[str, Any], *, is_best: bool) -> tuple[Cell, ...]:
    recipe = _recipe(run)
    loss = None if result["held-out loss"] is None else f"{result['held-out loss']:.4f}" + " ★" * is_best
    return (
        name, result["status"], run.base.name or None, _text(recipe.get("method")), _number(recipe.get("rank")),
        _number(recipe.get("learning_rate")), f"{result['steps']} of {_text(run.plan.to_json().get('steps'))}",
        None if result["loss"] is None else f"{result['loss']:.4f}", loss, _lowest(result), result["time"],
        result["size"],
    )  # fmt: skip


def _lowest(result: Mapping[str, Any]) -> str | None:
    """The lowest held-out loss and its step."""
    loss = result["lowest held-out loss"]
    return None if loss is None else f"{loss:.4f} at {result['lowest after step']}"


def _differences(names: list[str], runs: tuple[Run, ...], results: list[dict[str, Any]]) -> list[Block]:
    """Options with different values, above the results."""
    recipes = [_recipe(run) for run in runs]
    options = [name for name in {**recipes[0], **recipes[-1]} if len({repr(one.get(name)) for one in recipes}) > 1]
    columns = (Column(""), *(Column(name, "right") for name in names))
    rows = [(name, *(_text(recipe.get(name)) for recipe in recipes)) for name in options]
    outcome = [(name, *(_text(result[name]) for result in results)) for name in _RESULTS]
    table = Table("What differs in the recipes", columns, tuple(rows)) if rows else Paragraph("the recipes are equal")
    return [table, Table("Results", columns, tuple(outcome))]


def _text(value: Any) -> str | None:
    if value is None:
        return None
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    return visible(shown, 40)


def _number(value: Any) -> Cell:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else None
