"""One fine-tuning run from a checkpoint and a recipe to its artefacts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aprnb.display.bundle import Displayed
from aprnb.errors import UsageProblem
from aprnb.model.build import build_model
from aprnb.model.generate import Generation, generate
from aprnb.tuning import artefacts
from aprnb.tuning.adapter import attach, prepare_full, save_adapter
from aprnb.tuning.artefacts import Places
from aprnb.tuning.events import Event, Finished, Notice, Saved, mean_tokens_per_s, to_metrics_row
from aprnb.tuning.interrupt import Interrupt
from aprnb.tuning.loop import train
from aprnb.tuning.merge import Merged, merge, write_trained
from aprnb.tuning.merge_check import MergeCheck, compare_adapter, compare_trained
from aprnb.tuning.plan import Plan
from aprnb.tuning.preparation import Preparation, prepare
from aprnb.tuning.recipe import Recipe
from aprnb.tuning.state import RunState, load_state, save_state

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from aprnb.display.document import Document

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

    def generate(self, prompt: str, **options: Any) -> Generation:
        """The tuned model's greedy answer; options as in `aprnb.generate`."""
        if self._model is None:
            raise UsageProblem("this run holds no model any more", action="load its output with aprnb.load")
        return generate(self._model, self._tokenizer, prompt, **options)

    def release(self) -> None:
        """Lets go of the model's memory; files and metrics stay."""
        self._model = None

    def merge(self, output: str | os.PathLike[str], **options: Any) -> Merged:
        """The adapter merged into its base once more, elsewhere or in another dtype."""
        if self.adapter is None:
            raise UsageProblem("this run has no adapter to merge")
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
        from aprnb.tuning.run_document import run_document

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
    preparation = prepare(model, recipe)
    tell(preparation.plan)
    if recipe.plan:
        return preparation.plan
    where = artefacts.places(recipe.output, preparation.checkpoint.path)
    trains_adapter = preparation.recipe.trains_adapter
    artefacts.require_free(
        where,
        writes_model=not recipe.adapter_only,
        writes_adapter=trains_adapter,
        force=recipe.force,
        resume=recipe.resume,
    )
    state = load_state(where.state, preparation.identity) if recipe.resume else None
    artefacts.begin(where, preparation)
    run = Run(preparation.checkpoint.path, preparation.plan, where, list(state.metrics) if state else [])
    with Interrupt() as interrupt:
        module = _module(preparation)
        for event in _events(preparation, module, where, state, interrupt):
            _note(run, event)
            tell(event)
        run._model, run._tokenizer = module.eval(), preparation.choice.tokenizer
        if run.status == "finished":
            _write_artefacts(run, preparation, module, tell)
    return run


def _module(preparation: Preparation) -> Any:
    model = build_model(preparation.checkpoint, preparation.report, preparation.placement)
    recipe = preparation.recipe
    return attach(model, recipe) if recipe.trains_adapter else prepare_full(model)


def _events(
    preparation: Preparation, module: Any, where: Places, state: RunState | None, interrupt: Interrupt
) -> Iterator[Event]:
    return train(
        module,
        preparation.examples,
        preparation.held_out,
        preparation.schedule,
        preparation.recipe,
        device=preparation.placement.device,
        identity=preparation.identity,
        state=state,
        interrupt=interrupt,
        save=lambda saved: save_state(where.state, saved),
    )


def _note(run: Run, event: Event) -> None:
    row = to_metrics_row(event)
    if row is not None:
        run.metrics.append(row)
    run.peak_memory_bytes = max(run.peak_memory_bytes, getattr(event, "memory_bytes", 0))
    if isinstance(event, Notice):
        run.notices.append(event.text)
    if isinstance(event, Finished):
        run.status = event.status
    if isinstance(event, Saved | Finished):
        artefacts.write_metrics(run.where, run.metrics)


def _write_artefacts(run: Run, preparation: Preparation, module: Any, tell: Listener) -> None:
    """Adapter, merged model with its check, manifest: in the order in which each needs the one before."""
    recipe, where, checkpoint = preparation.recipe, run.where, preparation.checkpoint
    if recipe.trains_adapter:
        tell(Notice("info", f"writing {where.adapter}"))
        run.adapter = save_adapter(module, where.adapter, checkpoint.path, force=recipe.force)
    if not recipe.adapter_only:
        tell(Notice("info", f"writing {where.output} and comparing it with the trained model"))
        run.merge_check = _merged_and_compared(preparation, module, where)
        run.output = where.output
    used = _read_back(module, preparation)
    artefacts.write_json(where.run / "manifest.json", artefacts.manifest(preparation, where, used, run.to_json()))


def _merged_and_compared(preparation: Preparation, module: Any, where: Places) -> MergeCheck:
    recipe, checkpoint = preparation.recipe, preparation.checkpoint
    probes = [example.input_ids.tolist() for example in (preparation.held_out or preparation.examples).examples[:4]]
    if not recipe.trains_adapter:
        tokenizer = preparation.choice.tokenizer
        weights = dict(module.named_parameters())
        write_trained(
            checkpoint, preparation.report, weights, tokenizer, where.output, recipe.output_dtype, recipe.force
        )
        return compare_trained(module, where.output, preparation.placement, probes)
    settled = {"config": recipe.config, "overrides": recipe.overrides, "chat_template": recipe.chat_template}
    merge(checkpoint.path, where.adapter, where.output, output_dtype=recipe.output_dtype, force=recipe.force, **settled)
    return compare_adapter(preparation.report, checkpoint, where.adapter, where.output, preparation.placement, probes)


def _read_back(module: Any, preparation: Preparation) -> dict[str, Any]:
    """What the module itself says it is, beside what the plan promised."""
    parameters = list(module.parameters())
    base = module.get_base_model() if hasattr(module, "get_base_model") else module
    return {
        "method": preparation.recipe.method,
        "device": str(parameters[0].device),
        "dtype": str(base.get_input_embeddings().weight.dtype).removeprefix("torch."),
        "quantized_layers": sum(type(layer).__module__.startswith("bitsandbytes") for layer in base.modules()),
        "attention": base.config._attn_implementation,
        "gradient_checkpointing": preparation.recipe.gradient_checkpointing == "on",
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
    }
