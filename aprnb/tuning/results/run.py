"""A run that ended: its metrics, its files, the tuned model, and how they are shown."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aprnb.display.bundle import Displayed
from aprnb.display.curve import curve_words, figure_png, training_curve
from aprnb.display.document import Block, Cell, Column, Details, Document, Fields, Messages, Picture, Table
from aprnb.errors import Interrupted, UsageProblem
from aprnb.tuning.planning.plan import Plan
from aprnb.tuning.results.artefacts import Places
from aprnb.tuning.training.events import mean_tokens_per_s
from aprnb.units import bytes_text, duration_text

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

    from aprnb.model.generation import Generation
    from aprnb.tuning.results.merge import Merged
    from aprnb.tuning.results.merge_check import MergeCheck

_STEP_COLUMNS = (
    Column("step", "right"),
    Column("loss", "right"),
    Column("held-out loss", "right"),
    Column("learning rate", "right"),
    Column("gradient norm", "right"),
    Column("labelled tokens", "right"),
)
_ROWS_SHOWN = 12


class Run(Displayed):
    """A run that ended, with the tuned model in memory until `release`; the last expression of a cell shows a card.

    Attributes:
        base: the checkpoint that was tuned.
        plan: the `Plan` of the run.
        where: paths of the run's files.
        metrics: rows of `metrics.jsonl`, in order; losses are means over labelled tokens, in nats.
        status: "finished", or "interrupted" with the state saved for `resume=True`.
        notices: warnings during the run.
        merge_check: how far the written model's logits are from the trained model's.
        peak_memory_bytes: of the GPU, or of the process on a CPU.
        output: the tuned model; None where none was written.
        adapter: the PEFT adapter; None for the method "full".
    """

    def __init__(self, base: Path, plan: Plan, where: Places, metrics: list[Mapping[str, Any]]) -> None:
        self.base, self.plan, self.where, self.metrics = base, plan, where, metrics
        self.status: Literal["finished", "interrupted"] = "interrupted"
        self.notices: list[str] = []
        self.merge_check: MergeCheck | None = None
        self.peak_memory_bytes = 0
        self.output: Path | None = None
        self.adapter: Path | None = None
        self._model: Any = None
        self._tokenizer: Any = None

    @property
    def exit_code(self) -> int:
        """0, or 130 for an interrupted run."""
        return Interrupted.exit_code if self.status == "interrupted" else 0

    @property
    def steps(self) -> list[Mapping[str, Any]]:
        """The rows of optimizer steps."""
        return [row for row in self.metrics if "loss" in row]

    @property
    def evaluations(self) -> list[Mapping[str, Any]]:
        """The rows of evaluations on the held-out rows; the first is that of the base."""
        return [row for row in self.metrics if "eval_loss" in row]

    @property
    def concerns(self) -> tuple[str, ...]:
        """Warnings from the held-out loss."""
        losses = [row["eval_loss"] for row in self.evaluations]
        if len(losses) < 2:
            return ()
        best = self.evaluations[losses.index(min(losses))]
        if losses[-1] > losses[0]:
            return (f"the held-out loss rose from {losses[0]:.4f} to {losses[-1]:.4f}: the base model was better",)
        if losses[-1] > 1.05 * min(losses):
            lowest = f"step {best['step']} ({min(losses):.4f})"
            return (f"the held-out loss was lowest at {lowest} and rose afterwards: try fewer epochs",)
        return ()

    def hold(self, model: Any, tokenizer: Any) -> None:
        """Keeps the trained module for `generate`, until `release`."""
        self._model, self._tokenizer = model, tokenizer

    def generate(
        self, prompt: str, *, raw: bool = False, system: str | None = None, max_new_tokens: int = 64
    ) -> Generation:
        """Answer `prompt` with the tuned model; arguments and errors are those of `aprnb.generate`.

        Also raises UsageProblem after `release`.

            run.generate("What does the cow say?").text
        """
        if self._model is None:
            raise UsageProblem("the model of this run was released", action="load its output with aprnb.load")
        from aprnb.model.generation import generate

        return generate(self._model, self._tokenizer, prompt, raw=raw, system=system, max_new_tokens=max_new_tokens)

    def release(self) -> None:
        """Free the model's memory; files and metrics stay."""
        self._model = None

    def merge(
        self,
        output: str | os.PathLike[str],
        *,
        output_dtype: str | torch.dtype | None = None,
        force: bool = False,
        config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        overrides: Mapping[str, Any] | None = None,
        chat_template: str | None = None,
        other_base: bool = False,
    ) -> Merged:
        """Merge the run's adapter into its base again, to another file or in another dtype.

        The arguments are those of `aprnb.merge`; `config`, `overrides` and `chat_template` are those of the run unless
        given. Raises UsageProblem for a run without an adapter, and what `aprnb.merge` raises.

            run.merge("tuned-f32.apr", output_dtype="F32")
        """
        if self.adapter is None:
            raise UsageProblem("this run has no adapter to merge")
        from aprnb.tuning.results.merge import merge

        return merge(
            self.base,
            self.adapter,
            output,
            output_dtype=output_dtype,
            force=force,
            config=self.plan.options.config if config is None else config,
            overrides=self.plan.options.overrides if overrides is None else overrides,
            chat_template=self.plan.recipe.chat_template if chat_template is None else chat_template,
            other_base=other_base,
        )

    def plot(self) -> Figure:
        """Loss and held-out loss by step, as a matplotlib figure."""
        return training_curve(self.steps, self.evaluations)

    def to_json(self) -> dict[str, Any]:
        """The document of `aprnb finetune --json`."""
        losses = [row["loss"] for row in self.steps]
        evals = [row["eval_loss"] for row in self.evaluations]
        return {
            "status": self.status,
            "output": str(self.output) if self.output else None,
            "adapter": str(self.adapter) if self.adapter else None,
            "run": str(self.where.run),
            "steps": len(losses),
            "loss": {"first": losses[0], "last": losses[-1]} if losses else None,
            "eval_loss": {"first": evals[0], "last": evals[-1], "best": min(evals)} if evals else None,
            "tokens": sum(row["tokens"] for row in self.steps),
            "labelled_tokens": sum(row["labelled_tokens"] for row in self.steps),
            "tokens_per_s": mean_tokens_per_s(self.metrics),
            "peak_memory_bytes": self.peak_memory_bytes,
            "merge_check": self.merge_check.to_json() if self.merge_check else None,
        }

    def document(self) -> Document:
        """The card: outcome, files, curve, steps and plan."""
        blocks: list[Block] = [Fields((*_outcome(self), *_files(self)))]
        if self.steps:
            picture = Picture(figure_png(self.plot()), curve_words(self.steps, self.evaluations))
            blocks += [picture, Details("Steps", (_table(self),))]
        blocks.append(Details("Plan", self.plan.document().blocks))
        if self.notices:
            blocks.append(Messages("warning", tuple(self.notices)))
        concerns = (*_interruption(self), *self.concerns)
        if concerns:
            blocks.insert(0, Messages("warning", concerns))
        return Document(f"Run {self.status}", "warning" if concerns else "ok", tuple(blocks))


def _interruption(run: Run) -> tuple[str, ...]:
    if run.status == "finished":
        return ()
    done = f"{len(run.steps)} of {run.plan.total_steps}"
    text = f"interrupted after step {done}; continue with the same command and --resume"
    if run.where.output.exists():
        return (text, f"{run.where.output} is from an earlier run: add --force to --resume to replace it")
    return (text,)


def _outcome(run: Run) -> tuple[tuple[str, Cell, str], ...]:
    result = run.to_json()
    rows: list[tuple[str, Cell, str]] = [
        ("steps", f"{result['steps']} of {run.plan.total_steps}", run.plan.recipe.method)
    ]
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
        note = f"logits differ from those of the trained model by {difference}"
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
