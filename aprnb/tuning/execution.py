"""Executes a prepared run: builds the model, trains it, writes the results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from aprnb.errors import Interrupted
from aprnb.formats.json_files import read_object
from aprnb.formats.sidecar_files import safe_path
from aprnb.model.build import build_model
from aprnb.tuning.planning.identity import Identity, check_identity
from aprnb.tuning.planning.memory import adapted_shapes
from aprnb.tuning.preparation import Preparation
from aprnb.tuning.results import artefacts
from aprnb.tuning.results.artefacts import Places
from aprnb.tuning.results.base_content import (
    MAX_RECORD_BYTES,
    BaseContent,
    base_content,
    read_content,
    require_same_model,
    require_same_tensors,
)
from aprnb.tuning.results.merge import merge, write_trained
from aprnb.tuning.results.merge_check import MergeCheck, compare_adapter, compare_trained
from aprnb.tuning.results.run import Run
from aprnb.tuning.results.saved_adapter import save_adapter
from aprnb.tuning.training.events import EvalEvent, Event, Finished, Listener, Notice, Saved, StepEvent, to_metrics_row
from aprnb.tuning.training.interrupt import Interrupt
from aprnb.tuning.training.loop import train
from aprnb.tuning.training.lora import attach, prepare_full
from aprnb.tuning.training.state import RunState, save_state


def execute(run: Run, preparation: Preparation, state: RunState | None, tell: Listener) -> None:
    """Trains until the schedule ends or an interrupt, and fills `run` with the outcome.

    The first SIGINT ends the training after the micro-batch with its state saved. The second, or one while the results
    are written, stops at once: Interrupted then names the state that `resume` continues.
    """
    saved_step = state.step if state else None
    try:
        with Interrupt() as interrupt:
            module, content = _module(preparation)
            identity = replace(preparation.identity, base=content.digest)
            if state is not None:
                _require_same_base(run.where, state, identity, content, preparation)
            artefacts.begin(run.where, preparation, content, fresh=state is None)
            for event in _events(preparation, identity, module, run.where, state, interrupt):
                saved_step = event.step if isinstance(event, Saved) else saved_step
                _note(run, event)
                tell(event)
        run.hold(module.eval(), preparation.choice.tokenizer)
        if run.status == "finished":
            _write_artefacts(run, preparation, module, content, tell)
    except KeyboardInterrupt:
        kept = f"the state of step {saved_step} is saved: continue with the same command and --resume"
        raise Interrupted(
            "stopped at once", action=kept if saved_step else "no state was saved: start again with --force"
        ) from None


def _module(preparation: Preparation) -> tuple[Any, BaseContent]:
    """The module to train, and the content of its base when it was loaded."""
    checkpoint, report, recipe = preparation.checkpoint, preparation.report, preparation.recipe
    checkpoint.keep_hashes()
    model = build_model(checkpoint, report, preparation.placement)
    content = base_content(checkpoint, report)
    if not recipe.trains_adapter:
        return prepare_full(model), content
    return attach(model, recipe, adapted_shapes(report.architecture, recipe.target_modules)), content


def _require_same_base(
    where: Places, state: RunState, identity: Identity, content: BaseContent, preparation: Preparation
) -> None:
    """Raises UsageProblem with the difference where the state was saved with another base."""
    if state.identity.base == content.digest:
        return
    found, action = "the base checkpoint changed since the state was saved", "start a new run (without --resume)"
    path = safe_path(where.run, "base.json")
    if path.exists():
        saved = read_content(read_object(path, MAX_RECORD_BYTES), path)
        require_same_model(saved, preparation.report, found, action)
        require_same_tensors(saved, content.tensors, preparation.checkpoint.path, found, action)
    check_identity(state.identity, identity, str(where.state))


def _events(
    preparation: Preparation,
    identity: Identity,
    module: Any,
    where: Places,
    state: RunState | None,
    interrupt: Interrupt,
) -> Iterator[Event]:
    return train(
        module,
        preparation.examples,
        preparation.held_out,
        preparation.schedule,
        preparation.recipe,
        device=preparation.placement.device,
        identity=identity,
        eval_every=preparation.options.eval_every,
        state=state,
        interrupt=interrupt,
        save=lambda saved: save_state(where.state, saved),
    )


def _note(run: Run, event: Event) -> None:
    if isinstance(event, StepEvent | EvalEvent):
        run.metrics.append(to_metrics_row(event))
    if isinstance(event, StepEvent):
        run.peak_memory_bytes = max(run.peak_memory_bytes, event.memory_bytes)
    if isinstance(event, Notice):
        run.notices.append(event.text)
    if isinstance(event, Finished):
        run.status = event.status
    if isinstance(event, Saved | Finished):
        artefacts.write_metrics(run.where, run.metrics)


def _write_artefacts(run: Run, preparation: Preparation, module: Any, content: BaseContent, tell: Listener) -> None:
    """Adapter, merged model with its check, manifest: in the order in which each needs the one before."""
    options, where, checkpoint = preparation.options, run.where, preparation.checkpoint
    if preparation.recipe.trains_adapter:
        tell(Notice("info", f"writing {where.adapter}"))
        replace_own = options.force or options.resume
        run.adapter = save_adapter(module, where.adapter, checkpoint.path, force=replace_own, content=content)
    if not options.adapter_only:
        tell(Notice("info", f"writing {where.output} and comparing it with the trained model"))
        run.merge_check = _merged_and_compared(preparation, module, where)
        run.output = where.output
    used = _read_back(module, preparation)
    artefacts.write_manifest(preparation, where, used, run.to_json())


def _merged_and_compared(preparation: Preparation, module: Any, where: Places) -> MergeCheck:
    options, checkpoint = preparation.options, preparation.checkpoint
    probes = [example.input_ids.tolist() for example in (preparation.held_out or preparation.examples).examples[:4]]
    if not preparation.recipe.trains_adapter:
        merged = write_trained(
            checkpoint,
            preparation.report,
            dict(module.named_parameters()),
            preparation.choice.tokenizer,
            where.output,
            options.output_dtype,
            options.force,
            lambda path: compare_trained(module, path, preparation.placement, probes),
        )
    else:
        merged = merge(
            checkpoint.path,
            where.adapter,
            where.output,
            output_dtype=options.output_dtype,
            force=options.force,
            config=options.config,
            overrides=options.overrides,
            chat_template=preparation.recipe.chat_template,
            verify=lambda path: compare_adapter(
                preparation.report, checkpoint, where.adapter, path, preparation.placement, probes
            ),
        )
    assert merged.check
    return merged.check


def _read_back(module: Any, preparation: Preparation) -> dict[str, Any]:
    """The settings of the module that was trained, for comparison with the plan."""
    parameters = list(module.parameters())
    base = module.get_base_model() if hasattr(module, "get_base_model") else module
    return {
        "method": preparation.recipe.method,
        "device": str(parameters[0].device),
        "dtype": str(base.get_input_embeddings().weight.dtype).removeprefix("torch."),
        "quantized_layers": sum(type(layer).__module__.startswith("bitsandbytes") for layer in base.modules()),
        "attention": base.config._attn_implementation,
        "gradient_checkpointing": any(getattr(layer, "gradient_checkpointing", False) for layer in base.modules()),
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
    }
