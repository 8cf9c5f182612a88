"""Where a run starts: in a new folder, from the state that an earlier process saved, or not at all."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from aprnb.errors import AprnbError
from aprnb.formats.atomic import write_json
from aprnb.formats.source import is_folder, is_link
from aprnb.formats.targets import unknown_files
from aprnb.tuning.planning.identity import is_longer
from aprnb.tuning.planning.recipe import Recipe, RunOptions
from aprnb.tuning.preparation import Preparation
from aprnb.tuning.results.history import read_history
from aprnb.tuning.results.manifest import MANIFEST
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
from aprnb.tuning.training.saving.state import RunState
from aprnb.tuning.training.saving.state_files import load_state, saved_steps

_STATE_SLACK_BYTES = 64 << 20


def start(base: str | os.PathLike[str], recipe: Recipe, options: RunOptions) -> tuple[Places, RunOptions]:
    """The paths of the run's files, and the options with `resume` decided.

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
    return where, options


def is_done(run: Run, preparation: Preparation, state: RunState) -> bool:
    """Whether `state` is of the last step and the results of this recipe are written: nothing is left to do."""
    options, recipe = preparation.options, preparation.recipe
    if options.force or options.output_dtype or state.step < preparation.plan.total_steps or run.status != "finished":
        return False
    wanted = [(run.output, not options.adapter_only), (run.adapter, recipe.trains_adapter)]
    return all(path is not None and path.exists() for path, is_wanted in wanted if is_wanted)


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
    # AdamW keeps three float32 for each trained parameter; random numbers and headers take less than the slack.
    most_bytes = 16 * preparation.plan.parameters_trainable + _STATE_SLACK_BYTES
    return load_state(where.states, preparation.identity, most_bytes)


def begin(where: Places, preparation: Preparation, state: RunState | None) -> None:
    """Writes what was asked for and the plan into the run's folder; a new run first removes an earlier one."""
    if state is None:
        clear(where)
        write_json(where.run / RUN_LIST, {"files": list(RUN_FILES)}, force=True)
    if state is None or is_longer(state.identity, preparation.identity, state.step):
        (where.run / MANIFEST).unlink(missing_ok=True)
        write_request(where, preparation)
    write_json(where.plan, preparation.plan.to_json(), force=True)
