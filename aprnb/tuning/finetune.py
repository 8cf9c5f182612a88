"""One fine-tuning run from a checkpoint and a recipe to its artefacts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aprnb.display.bundle import Displayed
from aprnb.errors import UsageProblem
from aprnb.tuning.planning.plan import Plan
from aprnb.tuning.planning.preparation import Preparation, prepare
from aprnb.tuning.planning.recipe import Recipe
from aprnb.tuning.results import artefacts
from aprnb.tuning.results.artefacts import Places
from aprnb.tuning.training.events import Event, mean_tokens_per_s
from aprnb.tuning.training.state import RunState, load_state

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from aprnb.display.document import Document
    from aprnb.model.generation import Generation
    from aprnb.tuning.results.merge import Merged
    from aprnb.tuning.results.merge_check import MergeCheck

_STATE_SLACK_BYTES = 64 << 20

Listener = Callable[[Plan | Event], None]


class Run(Displayed):
    """A run that ended: its plan, its metrics, its files, and the tuned model for a question or two."""

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
    def steps(self) -> list[Mapping[str, Any]]:
        """One row per optimizer step that was made."""
        return [row for row in self.metrics if "loss" in row]

    @property
    def evaluations(self) -> list[Mapping[str, Any]]:
        return [row for row in self.metrics if "eval_loss" in row]

    @property
    def concerns(self) -> tuple[str, ...]:
        """What the held-out loss says against the result."""
        losses = [row["eval_loss"] for row in self.evaluations]
        if len(losses) < 2:
            return ()
        best = self.evaluations[losses.index(min(losses))]
        if losses[-1] > losses[0]:
            return (f"the held-out loss rose from {losses[0]:.4f} to {losses[-1]:.4f}: the base was better",)
        if losses[-1] > 1.05 * min(losses):
            return (
                f"the held-out loss was best at step {best['step']} ({min(losses):.4f}) and rose since: fewer epochs",
            )
        return ()

    def hold(self, model: Any, tokenizer: Any) -> None:
        """Keeps the trained module for questions, until `release`."""
        self._model, self._tokenizer = model, tokenizer

    def generate(self, prompt: str, **options: Any) -> Generation:
        """The tuned model's greedy answer; options as in `aprnb.generate`."""
        if self._model is None:
            raise UsageProblem("this run holds no model any more", action="load its output with aprnb.load")
        from aprnb.model.generation import generate

        return generate(self._model, self._tokenizer, prompt, **options)

    def release(self) -> None:
        """Lets go of the model's memory; files and metrics stay."""
        self._model = None

    def merge(self, output: str | os.PathLike[str], **options: Any) -> Merged:
        """The adapter merged into its base once more, elsewhere or in another dtype."""
        if self.adapter is None:
            raise UsageProblem("this run has no adapter to merge")
        from aprnb.tuning.results.merge import merge

        recipe = self.plan.recipe
        settled = {"config": recipe.config, "overrides": recipe.overrides, "chat_template": recipe.chat_template}
        return merge(self.base, self.adapter, output, **{**settled, **options})

    def plot(self) -> Figure:
        """The training curves."""
        from aprnb.display.curve import training_curve

        return training_curve(self.steps, self.evaluations)

    def to_json(self) -> dict[str, Any]:
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
        from aprnb.tuning.results.run_document import run_document

        return run_document(self)


def finetune(
    model: str | os.PathLike[str] | None = None, *, listener: Listener | None = None, **options: Any
) -> Run | Plan:
    """Fine-tunes the checkpoint at `model`; options are those of `Recipe` (data, method, rank, output, …).

    The plan is made, and told to `listener`, before any weight is read; `plan=True` returns it and stops there. Events
    of the run follow. The first SIGINT ends the run after the current micro-batch with its state saved
    (`status == "interrupted"`, continued by `resume=True`), the second raises KeyboardInterrupt.

    Raises an AprnbError of the part that does not hold; nothing existing is overwritten unless `force`.
    """
    recipe = Recipe.from_options(options)
    tell = listener or (lambda event: None)
    where = _free_places(model, recipe)
    preparation = prepare(model, recipe)
    tell(preparation.plan)
    if where is None:
        return preparation.plan
    state = _saved_state(where, preparation) if recipe.resume else None
    # Only now: a plan needs none of the modelling code, whose import takes longer than the plan.
    from aprnb.tuning.execution import execute

    run = Run(preparation.checkpoint.path, preparation.plan, where, list(state.metrics) if state else [])
    execute(run, preparation, state, tell)
    return run


def _saved_state(where: Places, preparation: Preparation) -> RunState:
    """AdamW keeps three float32 for each trained parameter; random numbers and headers take less than the slack."""
    most_bytes = 16 * preparation.plan.parameters_trainable + _STATE_SLACK_BYTES
    return load_state(where.state, preparation.identity, most_bytes, preparation.plan.steps)


def _free_places(model: str | os.PathLike[str] | None, recipe: Recipe) -> Places | None:
    """Where the run's files will stand, with nothing in the way; None for a plan, which writes none."""
    if recipe.plan or model is None:
        return None
    where = artefacts.places(recipe.output, Path(model))
    artefacts.require_free(
        where,
        writes_model=not recipe.adapter_only,
        writes_adapter=recipe.trains_adapter,
        force=recipe.force,
        resume=recipe.resume,
    )
    return where
