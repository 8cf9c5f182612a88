"""A run as a document: outcome, files, the curve as a picture, and the evaluations as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprnb.display.curve import curve_words, figure_png
from aprnb.display.document import Block, Cell, Column, Details, Document, Fields, Messages, Picture, Table
from aprnb.units import bytes_text, duration_text

if TYPE_CHECKING:
    from aprnb.tuning.finetune import Run

_STEP_COLUMNS = (
    Column("step", "right"),
    Column("loss", "right"),
    Column("held-out loss", "right"),
    Column("learning rate", "right"),
    Column("gradient norm", "right"),
    Column("labelled tokens", "right"),
)
_ROWS_SHOWN = 12


def run_document(run: Run) -> Document:
    blocks: list[Block] = [Fields((*_outcome(run), *_files(run)))]
    if run.steps:
        picture = Picture(figure_png(run.plot()), curve_words(run.steps, run.evaluations))
        blocks += [picture, Details("Steps", (_table(run),))]
    blocks.append(Details("Plan", run.plan.document().blocks))
    if run.notices:
        blocks.append(Messages("warning", tuple(run.notices)))
    concerns = (*_interruption(run), *run.concerns)
    if concerns:
        blocks.insert(0, Messages("warning", concerns))
    return Document(f"Run {run.status}", "warning" if concerns else "ok", tuple(blocks))


def _interruption(run: Run) -> tuple[str, ...]:
    if run.status == "finished":
        return ()
    done = f"{len(run.steps)} of {run.plan.steps}"
    word = f"interrupted after step {done}; the same command with --resume goes on from there"
    if run.where.output.exists():
        return (word, f"{run.where.output} is from an earlier run: add --force to --resume to replace it")
    return (word,)


def _outcome(run: Run) -> tuple[tuple[str, Cell, str], ...]:
    result = run.to_json()
    rows: list[tuple[str, Cell, str]] = [("steps", f"{result['steps']} of {run.plan.steps}", run.plan.recipe.method)]
    if result["loss"]:
        rows.append(("loss", f"{result['loss']['first']:.4f} → {result['loss']['last']:.4f}", "first and last step"))
    if result["eval_loss"]:
        ends = result["eval_loss"]
        rows.append(("held-out loss", f"{ends['first']:.4f} → {ends['last']:.4f}", f"best {ends['best']:.4f}"))
    if result["tokens_per_s"]:
        elapsed = duration_text(run.steps[-1]["elapsed_s"])
        labelled = f"{result['labelled_tokens']:,} labelled"
        rows.append(
            ("tokens", f"{result['tokens']:,}", f"{labelled}, {result['tokens_per_s']:,.0f} per second, {elapsed}")
        )
        rows.append(("peak memory", bytes_text(result["peak_memory_bytes"]), run.plan.facts.device))
    return tuple(rows)


def _files(run: Run) -> tuple[tuple[str, Cell, str], ...]:
    rows: list[tuple[str, Cell, str]] = []
    if run.output and run.merge_check:
        check = run.merge_check
        difference = f"at most {check.max_abs_difference:.3g} (range {check.logit_range:.3g})"
        note = f"logits differ from what was trained by {difference}"
        rows.append(("model", str(run.output), note))
    if run.adapter:
        rows.append(("adapter", str(run.adapter), "PEFT layout"))
    rows.append(("run", str(run.where.run), "recipe, plan, metrics, state"))
    return tuple(rows)


def _table(run: Run) -> Table:
    """The first step and those that were evaluated, evenly spaced where there are many; the picture shows them all."""
    steps, evals = run.steps, {row["step"]: row["eval_loss"] for row in run.evaluations}
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
