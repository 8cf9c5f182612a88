"""Executes a prepared run: builds the model, trains it, writes the results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from aprnb.adapters.base_content import (
    MAX_RECORD_BYTES,
    BaseContent,
    base_content,
    read_content,
    require_same_model,
    require_same_tensors,
)
from aprnb.errors import AprnbError, InternalError, Interrupted, UsageProblem
from aprnb.formats.atomic import write_json
from aprnb.formats.json_files import read_object
from aprnb.formats.sidecar_files import safe_path
from aprnb.model.build import build_model
from aprnb.model.heap import return_large_blocks
from aprnb.tuning.planning.identity import Identity, check_identity
from aprnb.tuning.planning.memory import adapted_shapes
from aprnb.tuning.planning.memory_use import begin_peak
from aprnb.tuning.planning.saving import read_save_rule
from aprnb.tuning.preparation import Preparation
from aprnb.tuning.results.event_log import EventLog
from aprnb.tuning.results.places import BASE, Places
from aprnb.tuning.results.run import Run
from aprnb.tuning.starting import about, begin, differences
from aprnb.tuning.tracking import Tracked, tracked
from aprnb.tuning.training.events import Event, Finished, Listener, Notice, Phase, Saved
from aprnb.tuning.training.failure import memory_for, room_for_results
from aprnb.tuning.training.interrupt import Interrupt
from aprnb.tuning.training.loop import train
from aprnb.tuning.training.lora import attach, prepare_full, start_from
from aprnb.tuning.training.saving.state import RunState
from aprnb.tuning.training.saving.state_files import save_state
from aprnb.tuning.training.used_settings import check_settings, read_settings
from aprnb.tuning.write_results import write_results


def execute(run: Run, preparation: Preparation, state: RunState | None, tell: Listener) -> None:
    """Trains until the schedule ends or an interrupt, and writes the results; the folder of `run` is claimed.

    Every event is appended to the run's `events.jsonl` and told. The first SIGINT ends the training after the
    micro-batch with its state saved. The second, or one while the results are written, stops at once: Interrupted then
    names the state that `resume` continues.
    """
    where = run.where
    before = run.history.start
    if state is None:
        begin(where, preparation, state)
    log = EventLog(where.events)

    def note(event: Event) -> None:
        log(event)
        tell(event)

    try:
        log.start(about(preparation, state))
        for text in differences(before) if state else ():
            note(Notice("info", text))
        log.end(_tracked(run, preparation, state, note))
    except _OtherBase as refused:
        log.forget()
        raise refused.error from None
    except BaseException as error:
        log.end(_failure(error))
        raise
    finally:
        log.close()
    log.require_whole()


def _tracked(run: Run, preparation: Preparation, state: RunState | None, note: Listener) -> dict[str, Any]:
    options = {name: str(value) for name, value in preparation.recipe.to_json().items()}
    about = Tracked(run.where.run.stem, run.where.run, {**options, "base": preparation.checkpoint.path.name})
    with tracked(preparation.options.track, about, note) as track:

        def note_and_track(event: Event) -> None:
            note(event)
            track(event)

        return _executed(run, preparation, state, note_and_track)


def _executed(run: Run, preparation: Preparation, state: RunState | None, note: Listener) -> dict[str, Any]:
    """Trains, and writes the results where the schedule ended; returns what `events.jsonl` ends with."""
    where, saved_step = run.where, state.step if state else None
    try:
        with Interrupt(where.stop) as interrupt:
            return_large_blocks()
            if not begin_peak(preparation.placement.device):
                note(Notice("info", "the peak memory is that of the process since it started"))
            with memory_for("before training"):
                module, content = _module(preparation, note)
            identity = replace(preparation.identity, base=content.digest)
            if state is not None:
                _require_same_base(where, state, identity, content, preparation)
                begin(where, preparation, state)
            write_json(where.run / BASE, content.to_json(), force=True)
            for event in _events(preparation, identity, module, where, state, interrupt):
                saved_step = event.step if isinstance(event, Saved) else saved_step
                note(event)
        run.hold(module.eval(), preparation.choice.tokenizer)
        # At the last step too: where the disk is full, a run that is asked to stop ends without its state.
        if not (isinstance(event, Finished) and event.status == "finished" and event.step == saved_step):
            return {"status": "interrupted"}
        with room_for_results(preparation.recipe):
            return write_results(run, preparation, module, content, note)
    except KeyboardInterrupt:
        kept = f"the state of step {saved_step} is saved: run the same command again with --resume, or --resume auto"
        raise Interrupted(
            "stopped at once", action=kept if saved_step else "no state was saved: run the same command again"
        ) from None


def _failure(error: BaseException) -> dict[str, Any]:
    """What `events.jsonl` ends with: the status, and the error as `--json` prints it."""
    if isinstance(error, KeyboardInterrupt):
        error = Interrupted("stopped at once")
    known = error if isinstance(error, AprnbError) else InternalError(error, traceback_shown=False)
    status = "interrupted" if isinstance(known, Interrupted) else "failed"
    return {"status": status, "error": known.to_json()}


def _module(preparation: Preparation, note: Listener) -> tuple[Any, BaseContent]:
    """The module to train, with the planned settings, and the content of its base when it was loaded."""
    checkpoint, report, recipe = preparation.checkpoint, preparation.report, preparation.recipe
    checkpoint.keep_hashes()
    model = build_model(checkpoint, report, preparation.placement, note)
    content = base_content(checkpoint, report)
    if recipe.trains_adapter:
        note(Phase("attaching the adapter"))
        module = attach(model, recipe, adapted_shapes(report.architecture, recipe.target_modules))
        if preparation.options.start_adapter:
            start_from(module, Path(preparation.options.start_adapter), checkpoint, report)
    else:
        module = prepare_full(model)
    used = read_settings(module)
    del used["gradient_checkpointing"]  # the loop switches it
    check_settings(preparation.plan, used)
    return module, content


class _OtherBase(Exception):
    """The base is not that of the run to resume: nothing of the run may change. `error` is the error to raise."""

    def __init__(self, error: UsageProblem) -> None:
        super().__init__(error)
        self.error = error


def _require_same_base(
    where: Places, state: RunState, identity: Identity, content: BaseContent, preparation: Preparation
) -> None:
    """Raises _OtherBase with the difference where the state was saved with another base."""
    try:
        if state.identity.base != content.digest:
            _find_difference(where, state, identity, content, preparation)
    except UsageProblem as error:
        raise _OtherBase(error) from None


def _find_difference(
    where: Places, state: RunState, identity: Identity, content: BaseContent, preparation: Preparation
) -> None:
    found, action = "the base checkpoint changed since the state was saved", "start a new run (without --resume)"
    path = safe_path(where.run, BASE)
    if path.exists():
        saved = read_content(read_object(path, MAX_RECORD_BYTES), path)
        require_same_model(saved, preparation.report, found, action)
        require_same_tensors(saved, content.tensors, preparation.checkpoint.path, found, action)
    check_identity(state.identity, identity, state.step, str(where.states))


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
        is_fresh=not preparation.options.start_adapter,
        eval_every=preparation.options.eval_every,
        forecast=preparation.plan.forecast,
        state=state,
        interrupt=interrupt,
        saving=read_save_rule(preparation.options.save_every, preparation.plan.total_steps),
        save=lambda saved: save_state(where.states, saved, preparation.options.keep),
    )
