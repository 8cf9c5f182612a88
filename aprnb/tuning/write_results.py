"""Writes what a finished run leaves: the adapter, the merged model with its check, the manifest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from aprnb.adapters.base_content import BaseContent
from aprnb.errors import CheckpointError, FileMissing
from aprnb.model.memory import release_freed
from aprnb.phases import Phase
from aprnb.tuning.planning.memory import PROBE_TOKENS, PROBES
from aprnb.tuning.planning.memory_use import peak_bytes
from aprnb.tuning.preparation import Preparation
from aprnb.tuning.results.history import best_evaluated
from aprnb.tuning.results.manifest import write_manifest
from aprnb.tuning.results.merge import merge, write_trained
from aprnb.tuning.results.merge_check import MergeCheck, compare_adapter, compare_trained
from aprnb.tuning.results.places import Places
from aprnb.tuning.results.run import Run
from aprnb.tuning.results.run_document import run_json
from aprnb.tuning.results.saved_adapter import save_adapter
from aprnb.tuning.training.events import Listener
from aprnb.tuning.training.saving.state import restore_weights
from aprnb.tuning.training.saving.state_files import load_step, most_state_bytes
from aprnb.tuning.training.used_settings import check_settings, read_settings


def write_results(
    run: Run, preparation: Preparation, module: Any, content: BaseContent, note: Listener
) -> dict[str, Any]:
    """Writes adapter, merged model with its check, manifest: in the order in which each needs the one before."""
    options, where, checkpoint = preparation.options, run.where, preparation.checkpoint
    note(Phase("writing the results"))
    release_freed(preparation.placement.device)
    step = preparation.plan.total_steps
    best = best_evaluated(run.history) if options.write_best else None
    if best and best.step != step:
        note(Phase(f"restoring the state of step {best.step}"))
        _restore_best(where, best.step, preparation, module)
        step = best.step
    used = read_settings(module)
    check_settings(preparation.plan, used)
    found: dict[str, Any] = {"status": "finished", "output": not options.adapter_only, "merge_check": None}
    found["written_step"] = step
    found["adapter"] = preparation.recipe.trains_adapter
    if found["adapter"]:
        note(Phase("writing the adapter"))
        save_adapter(
            module, where.adapter, checkpoint.path, force=options.force or bool(options.resume), content=content
        )
    if found["output"]:
        own = run.history.wrote_model
        found["merge_check"] = _merged_and_compared(preparation, module, where, own, note).to_json()
    note(Phase("writing the manifest"))
    found["peak_memory_bytes"] = peak_bytes(preparation.placement.device)
    history = replace(run.history, end=found)
    write_manifest(preparation, where, used, run_json(where, "finished", history))
    return found


def _restore_best(where: Places, step: int, preparation: Preparation, module: Any) -> None:
    """Sets the trained weights back to those after `step`, with the lowest held-out loss."""
    try:
        restore_weights(load_step(where.states, step, most_state_bytes(preparation.plan.parameters_trainable)), module)
    except (CheckpointError, FileMissing) as error:
        action = "every step is done and saved: run it again with --resume, without --write-best"
        raise type(error)(error.found, expected=error.expected, where=error.where, action=action) from None


def _merged_and_compared(
    preparation: Preparation, module: Any, where: Places, is_own: bool, note: Listener
) -> MergeCheck:
    options, checkpoint = preparation.options, preparation.checkpoint
    force = options.force or is_own
    probed = (preparation.held_out or preparation.examples).examples
    probes = [example.input_ids[:PROBE_TOKENS].tolist() for example in probed[:PROBES]]
    if not preparation.recipe.trains_adapter:
        merged = write_trained(
            checkpoint,
            preparation.report,
            dict(module.named_parameters()),
            preparation.choice.tokenizer,
            where.output,
            options.output_dtype,
            force,
            lambda path: compare_trained(module, path, preparation.placement, probes, note),
            note,
        )
    else:
        merged = merge(
            checkpoint.path,
            where.adapter,
            where.output,
            output_dtype=options.output_dtype,
            force=force,
            config=options.config,
            overrides=options.overrides,
            chat_template=preparation.recipe.chat_template,
            verify=lambda path: compare_adapter(
                preparation.report, checkpoint, where.adapter, path, preparation.placement, probes, note
            ),
            on_phase=note,
        )
    assert merged.check
    return merged.check
