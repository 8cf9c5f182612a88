"""A run as a card and as JSON, from its history (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aprnb.display.curve import curve_words, figure_png, training_curve
from aprnb.display.document import Block, Cell, Details, Document, Fields, Messages, Paragraph, Picture, Status
from aprnb.tuning.planning.plan import Plan
from aprnb.tuning.planning.plan_document import SavedPlan
from aprnb.tuning.results.history import History, concerns, written_evaluated
from aprnb.tuning.results.places import Places
from aprnb.tuning.results.steps_table import steps_table
from aprnb.tuning.training.events import mean_tokens_per_s
from aprnb.units import bytes_text, duration_text

_BADGES: Mapping[str, Status | None] = {
    "running": None, "finished": "ok", "interrupted": "warning", "failed": "failed", "killed": "failed",
}  # fmt: skip


def run_json(where: Places, status: str, history: History) -> dict[str, Any]:
    """Status, files, and the sums of the run's numbers."""
    losses = [row["loss"] for row in history.steps]
    evals = [row["eval_loss"] for row in history.evaluations]
    end = history.end or {}
    return {
        "status": status,
        "output": str(where.output) if end.get("output") else None,
        "adapter": str(where.adapter) if end.get("adapter") else None,
        "run": str(where.run),
        "steps": len(losses),
        "loss": {"first": losses[0], "last": losses[-1]} if losses else None,
        "eval_loss": _held_out(history) if evals else None,
        "tokens": sum(row["tokens"] for row in history.steps),
        "labelled_tokens": sum(row["labelled_tokens"] for row in history.steps),
        "tokens_per_s": mean_tokens_per_s(history.steps),
        "peak_memory_bytes": max(history.peak_memory_bytes, end.get("peak_memory_bytes", 0)),
        "merge_check": end.get("merge_check"),
        "error": end.get("error"),
    }


def _held_out(history: History) -> dict[str, Any]:
    """The losses on held-out rows: of the base, after the last step, the lowest, and that of the written weights."""
    rows, written = history.evaluations, written_evaluated(history)
    best = min(rows, key=lambda row: row["eval_loss"])
    return {
        "first": rows[0]["eval_loss"],
        "last": rows[-1]["eval_loss"],
        "best": best["eval_loss"],
        "best_step": best["step"],
        "written": written.loss if written else rows[-1]["eval_loss"],
        "written_step": written.step if written else rows[-1]["step"],
    }


def _of_which_steps(ends: Mapping[str, Any]) -> str:
    """Of which steps the two losses are, and the lowest one where it is clearly lower."""
    lowest = f"; lowest {ends['best']:.4f} after step {ends['best_step']}"
    return f"base and step {ends['written_step']}" + lowest * (ends["written"] > 1.01 * ends["best"])


def run_document(
    where: Places, status: str, history: History, plan: Plan | SavedPlan, *, plan_shown: bool = False
) -> Document:
    """Outcome, files, curve, steps, and the plan, or where it is if that was shown before."""
    blocks: list[Block] = [Fields((*_outcome(where, status, history, plan), *_files(where, history)))]
    if status == "running":
        stop = f'aprnb.open_run("{where.run}").stop()'
        blocks.append(Paragraph(f"%apr_watch {where.run} shows how it goes on; {stop} saves its state and ends it"))
    if history.steps:
        figure = training_curve(history.steps, history.evaluations)
        words = curve_words(history.steps, history.evaluations)
        steps = steps_table(history.steps, history.evaluations)
        blocks += [Picture(figure_png(figure), words), Details("Steps", (steps,))]
    planned = plan.document()
    if plan_shown:
        blocks.append(Paragraph(f"the plan that was shown is in {where.plan}"))
    else:
        blocks.append(Details("Plan, with warnings" if planned.status == "warning" else "Plan", planned.blocks))
    found = (*_ending(where, status, history, plan), *history.warnings, *concerns(history))
    if found:
        blocks.insert(0, Messages("warning", found))
    badge = "failed" if _BADGES[status] == "failed" else "warning" if found else _BADGES[status]
    return Document(f"Run {status}", badge, tuple(blocks))


def _ending(where: Places, status: str, history: History, plan: Plan | SavedPlan) -> tuple[str, ...]:
    """Why the run did not finish, and how it goes on."""
    if status in ("finished", "running"):
        return ()
    done = f"after step {len(history.steps)} of {_total(plan, history)}"
    if status == "failed":
        error = (history.end or {}).get("error")
        said = error.get("message") if isinstance(error, Mapping) else None
        return (f"failed {done}: {said or 'without a message'}",)
    what = "interrupted" if status == "interrupted" else "the process ended without a word"
    if history.saved is None:
        return (f"{what} {done}; no state was saved: run the same command again",)
    text = f"{what} {done}; run the same command again with --resume, or --resume auto"
    if where.output.exists():
        return (text, f"{where.output} is from an earlier run: add --force to --resume to replace it")
    return (text,)


def _total(plan: Plan | SavedPlan, history: History) -> Any:
    return history.last_step.total_steps if history.last_step else plan.to_json().get("steps", "?")


def _outcome(where: Places, status: str, history: History, plan: Plan | SavedPlan) -> tuple[tuple[str, Cell, str], ...]:
    result, planned = run_json(where, status, history), plan.to_json()
    rows: list[tuple[str, Cell, str]] = [
        ("steps", f"{result['steps']} of {_total(plan, history)}", str(planned.get("method", "")))
    ]
    if result["loss"]:
        rows.append(("loss", f"{result['loss']['first']:.4f} → {result['loss']['last']:.4f}", "first and last step"))
    if result["eval_loss"]:
        ends = result["eval_loss"]
        rows.append(("held-out loss", f"{ends['first']:.4f} → {ends['written']:.4f}", _of_which_steps(ends)))
    if result["tokens_per_s"]:
        elapsed = duration_text(history.steps[-1]["elapsed_s"])
        labelled = f"{result['labelled_tokens']:,} labelled"
        rows.append(
            ("tokens", f"{result['tokens']:,}", f"{labelled}, {result['tokens_per_s']:,.0f} per second, {elapsed}")
        )
        rows.append(("peak memory", bytes_text(result["peak_memory_bytes"]), str(planned.get("device", ""))))
    return tuple(rows)


def _files(where: Places, history: History) -> tuple[tuple[str, Cell, str], ...]:
    rows: list[tuple[str, Cell, str]] = []
    end = history.end or {}
    if end.get("output"):
        rows.append(("model", str(where.output), _compared(end.get("merge_check"))))
    if end.get("adapter"):
        rows.append(("adapter", str(where.adapter), "PEFT layout"))
    rows.append(("run", str(where.run), "recipe, plan, events, states"))
    return tuple(rows)


def _compared(check: Any) -> str:
    """How far the written model is from the trained one, from the JSON of its `MergeCheck`."""
    if not isinstance(check, Mapping):
        return ""
    numbers = [check.get(name) for name in ("max_abs_difference", "logit_range")]
    if not all(isinstance(number, int | float) for number in numbers):
        return ""
    return f"logits differ from those of the trained model by at most {numbers[0]:.3g} (range {numbers[1]:.3g})"
