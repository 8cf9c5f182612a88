"""Where a run starts: in a new folder, from the state that an earlier process saved, or not at all."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from aprnb.errors import AprnbError
from aprnb.formats.atomic import write_json
from aprnb.formats.source import is_folder, is_link
from aprnb.formats.targets import unknown_files
from aprnb.option_values import read_value
from aprnb.tuning.planning.identity import is_longer
from aprnb.tuning.planning.plan_document import read_plan
from aprnb.tuning.planning.recipe import OPTIONS, Recipe, RunOptions
from aprnb.tuning.preparation import Preparation
from aprnb.tuning.results.history import best_evaluated, read_history
from aprnb.tuning.results.manifest import MANIFEST, installed_version
from aprnb.tuning.results.places import (
    RUN_FILES,
    RUN_LIST,
    Places,
    clear,
    own_run_files,
    places,
    require_free,
)
from aprnb.tuning.results.request import write_request
from aprnb.tuning.results.run import Run
from aprnb.tuning.tracking import require_tracker
from aprnb.tuning.training.events import Listener, Notice, Planned
from aprnb.tuning.training.saving.state import RunState
from aprnb.tuning.training.saving.state_files import load_state, most_state_bytes, remove_older, saved_steps

_BY_DEVICE = ("method", "dtype", "micro_batch_tokens", "optimizer", "gradient_checkpointing")
"""What is left open until device and free memory are known."""


def start(base: str | os.PathLike[str], recipe: Recipe, options: RunOptions) -> tuple[Places, Recipe, RunOptions]:
    """The paths of the run's files, the recipe with the choices of the run to resume, and `resume` decided.

    Raises OutputExists where a file of the run exists and may not be replaced.
    """
    require_tracker(options.track)
    where = places(options.output, Path(base))
    if options.resume == "auto":
        options = replace(options, resume=bool(saved_steps(where.states)))
    if not options.resume and _holds_nothing(where):
        options = replace(options, force=True)
    require_free(
        where,
        writes_model=not options.adapter_only,
        writes_adapter=recipe.method != "full",
        force=options.force or (bool(options.resume) and _wrote_output(where)),
        resume=bool(options.resume),
    )
    return (where, *_as_before(where, recipe, options)) if options.resume else (where, recipe, options)


def _as_before(where: Places, recipe: Recipe, options: RunOptions) -> tuple[Recipe, RunOptions]:
    """What is open, as the run to resume settled it: by now device and memory may lead to another choice."""
    try:
        settled = read_plan(where.plan).to_json().get("recipe", {})
        saved = {name: read_value(OPTIONS[name], settled[name]) for name in _BY_DEVICE if settled.get(name) is not None}
    except AprnbError:  # the state is compared with the recipe later
        return recipe, options

    def closed(given: Recipe | RunOptions) -> dict[str, Any]:
        return {name: value for name, value in saved.items() if getattr(given, name, 0) in (None, "auto")}

    return replace(recipe, **closed(recipe)), replace(options, **closed(options))


def is_done(run: Run, preparation: Preparation, state: RunState) -> bool:
    """Whether `state` is of the last step and the results of this recipe are written: nothing is left to do."""
    options, recipe = preparation.options, preparation.recipe
    ended = (run.history.end or {}).get("status")
    if options.force or options.output_dtype or state.step < preparation.plan.total_steps or ended != "finished":
        return False
    best = best_evaluated(run.history) if options.write_best else None
    if (run.history.end or {}).get("written_step", state.step) != (best.step if best else state.step):
        return False
    wanted = [(run.output, not options.adapter_only), (run.adapter, recipe.trains_adapter)]
    return all(path is not None and path.exists() for path, is_wanted in wanted if is_wanted)


def leave_as_it_is(run: Run, preparation: Preparation, state: RunState, tell: Listener) -> None:
    """Tells the plan, and that nothing is left to do; a state too many, of a killed process, is removed."""
    remove_older(run.where.states, preparation.options.keep, state)
    tell(Planned(preparation.plan, run.where.run))
    tell(Notice("info", f"the run is finished after step {state.step}; more --epochs train it on"))


def _holds_nothing(where: Places) -> bool:
    """Whether an earlier run stands there that ended before its first state: nothing is lost with it."""
    has_results = any(map(os.path.lexists, (where.output, where.adapter)))
    if has_results or is_link(where.run) or not is_folder(where.run) or saved_steps(where.states):
        return False
    return next(unknown_files(where.run, own_run_files(where.run)), None) is None


def _wrote_output(where: Places) -> bool:
    """Whether the run to resume had begun to write its output, so that a file of that name is its own."""
    try:
        return read_history(where.events).wrote_model
    except AprnbError:
        return False


def saved_state(where: Places, preparation: Preparation) -> RunState:
    """The state to resume from; raises where there is none, or it does not fit the run."""
    return load_state(where.states, preparation.identity, most_state_bytes(preparation.plan.parameters_trainable))


def begin(where: Places, preparation: Preparation, state: RunState | None) -> None:
    """Writes what was asked for and the plan into the run's folder; a new run first removes an earlier one.

    Call with a `state` once it is known to fit: a killed process may have left one too many, which is removed.
    """
    if state is None:
        clear(where, _used(where, preparation))
        write_json(where.run / RUN_LIST, {"files": list(RUN_FILES)}, force=True)
    else:
        remove_older(where.states, preparation.options.keep, state)
    if state is None or is_longer(state.identity, preparation.identity, state.step):
        (where.run / MANIFEST).unlink(missing_ok=True)
        write_request(where, preparation)
    write_json(where.plan, preparation.plan.to_json(), force=True)


def _used(where: Places, preparation: Preparation) -> list[str]:
    """Names of the files of an earlier run in this folder that the new one reads."""
    config = preparation.options.config
    paths = [rows.path for rows in preparation.rows.values()]
    paths.append(Path(config) if isinstance(config, str | os.PathLike) else None)
    return [path.name for path in paths if path is not None and path.resolve().parent == where.run.resolve()]


def about(preparation: Preparation, state: RunState | None) -> dict[str, Any]:
    """What the log says of a process that begins."""
    return {
        "aprnb": installed_version("aprnb"),
        "machine": socket.gethostname(),
        "base": str(preparation.checkpoint.path.absolute()),
        "rows_sha256": {name: rows.sha256 for name, rows in preparation.rows.items()},
        "total_steps": preparation.plan.total_steps,
        "threads": torch.get_num_threads(),
        "resumed_from": state.step if state else None,
    }


def differences(before: Mapping[str, Any]) -> Iterator[str]:
    """What of this process may round differently than the one that began with `before`."""
    threads = before.get("threads")
    if isinstance(threads, int) and threads != torch.get_num_threads():
        yield f"{torch.get_num_threads()} threads, before it were {threads}: sums may round differently"
