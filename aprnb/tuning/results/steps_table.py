"""The steps of a run as a table and as a DataFrame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aprnb.display.document import Column, Table

if TYPE_CHECKING:
    import pandas

_STEP_COLUMNS = (
    Column("step", "right"),
    Column("loss", "right"),
    Column("held-out loss", "right"),
    Column("learning rate", "right"),
    Column("gradient norm", "right"),
    Column("labelled tokens", "right"),
)
_ROWS_SHOWN = 12


def steps_table(steps: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]]) -> Table:
    """The first step and those that were evaluated, evenly spaced where there are many; the picture shows them all."""
    evals = {row["step"]: row["eval_loss"] for row in evaluations}
    evaluated = [i for i, row in enumerate(steps) if i == 0 or row["step"] in evals]
    among = evaluated if len(evaluated) > 2 else list(range(len(steps)))
    count = min(len(among), _ROWS_SHOWN)
    chosen = sorted({among[round(i * (len(among) - 1) / max(1, count - 1))] for i in range(count)})
    rows = tuple(
        (
            steps[i]["step"],
            f"{steps[i]['loss']:.4f}",
            f"{evals[steps[i]['step']]:.4f}" if steps[i]["step"] in evals else None,
            f"{steps[i]['learning_rate']:.2e}",
            f"{steps[i]['grad_norm']:.3f}",
            steps[i]["labelled_tokens"],
        )
        for i in chosen
    )
    return Table("Steps", _STEP_COLUMNS, rows, hidden=len(steps) - len(rows))


def rows_frame(rows: Sequence[Mapping[str, Any]]) -> pandas.DataFrame:
    """Rows of numbers, one for each step or evaluation."""
    import pandas

    return pandas.DataFrame(rows)
