"""The paths of a run's files, and the folder of one: claimed by one process, cleared for a new run.

X.run/
  files.json      what a run writes here: `--force` removes nothing else
  lock            the process that writes here, and since when
  stop            asks for the run to be saved and stopped; anyone may create it
  recipe.toml     what was asked for; rows.jsonl, eval-rows.jsonl and config.json belong to it
  plan.json       the plan
  base.json       the content of the base
  events.jsonl    everything that happened, line by line
  states/         from which the run can be resumed
  manifest.json   inputs, what was used, and outputs, with their hashes
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from aprnb.errors import FileMissing, OutputError, OutputExists, UsageProblem
from aprnb.formats.atomic import empty_folder, leftovers, require_place_of_file, require_place_of_folder, write_json
from aprnb.formats.targets import require_name
from aprnb.tuning.results.lock import in_use, is_locked, locked
from aprnb.tuning.results.owned_files import listed_files, own_adapter_files
from aprnb.tuning.training.saving import state_document
from aprnb.tuning.written_files import output_path


@dataclass(frozen=True)
class Places:
    """`out.apr`, `out.adapter/` and `out.run/`, side by side."""

    output: Path
    adapter: Path
    run: Path

    @property
    def states(self) -> Path:
        """The folder of resumable states."""
        return self.run / "states"

    @property
    def events(self) -> Path:
        """Everything that happened, JSON Lines."""
        return self.run / "events.jsonl"

    @property
    def plan(self) -> Path:
        """What the run was to do, JSON."""
        return self.run / "plan.json"

    @property
    def lock(self) -> Path:
        """Held by the process that works on the run."""
        return self.run / LOCK

    @property
    def stop(self) -> Path:
        """A file that asks the run to save and stop."""
        return self.run / "stop"

    @property
    def is_running(self) -> bool:
        """Whether a process works on the run."""
        return is_locked(self.lock)


RUN_LIST, LOCK, BASE = "files.json", "lock", "base.json"
_HALF_WRITTEN = ".aprnb-????????-????????.part"
_FIRST = (LOCK, RUN_LIST, _HALF_WRITTEN)
"""What a process writes before its plan."""
_STATES = (*(f"step-{'[0-9]' * digits}" for digits in range(6, 10)), f"{_HALF_WRITTEN}/new", f"{_HALF_WRITTEN}/former")
_FILES = (
    RUN_LIST, LOCK, "stop", "recipe.toml", "rows.jsonl", "eval-rows.jsonl", "config.json", "plan.json", BASE,
    "events.jsonl", "manifest.json", "tensorboard/events.out.tfevents.*", _HALF_WRITTEN,
    *(f"states/{folder}/{name}" for folder in _STATES for name in state_document.FILES),
)  # fmt: skip
RUN_FILES = (*_FILES, *(f"{_HALF_WRITTEN}/{name}" for name in _FILES))
"""Everything that a run writes into its folder, and lists there when it begins. `.aprnb-*.part` is an incomplete file
of a killed process, or what it was about to remove."""


def places(output: str | None, model: Path) -> Places:
    """The paths next to `output`, which is `MODEL-finetuned.apr` in the current folder unless given."""
    path = output_path(output, model)
    return Places(path, path.with_suffix(".adapter"), path.with_suffix(".run"))


def places_of(run: Path) -> Places:
    """The paths that belong to the run's folder NAME.run; raises UsageProblem for another name."""
    if run.suffix != ".run":
        raise UsageProblem(f"{run} is not the folder of a run", expected="a name that ends in .run")
    return Places(run.with_suffix(".apr"), run.with_suffix(".adapter"), run)


def require_free(where: Places, *, writes_model: bool, writes_adapter: bool, force: bool, resume: bool) -> None:
    """Raises where an output exists and may not be replaced, its folder cannot be written, or no run is to be resumed.

    Call before work.
    """
    for path in (where.output, where.run):
        require_name(path)
    if writes_model:
        if resume and where.output.exists() and not force:
            action = "add --force to overwrite it; with --resume the saved state of the run is kept"
            raise OutputExists(f"{where.output} exists, from an earlier run", action=action)
        require_place_of_file(where.output, force)
    if writes_adapter:
        require_place_of_folder(where.adapter, force or resume, own_adapter_files(where.adapter))
    if where.run.is_symlink():
        raise OutputExists(f"{where.run} is a link and is not replaced", action="choose another --output")
    if resume:
        if not where.run.is_dir():
            raise FileMissing(f"no run to resume at {where.run}", action="start the run without --resume")
    elif where.run.exists() and not force:
        if where.is_running:
            raise in_use(where.lock)
        raise _run_exists(where.run)
    else:
        require_place_of_folder(where.run, force, own_run_files(where.run))


def own_run_files(folder: Path) -> tuple[str, ...]:
    """Paths of the files in a run's folder that a run wrote; where its list is missing, those written before it."""
    return listed_files(folder, RUN_LIST, RUN_FILES) or _FIRST


@contextmanager
def claimed(where: Places, *, may_exist: bool) -> Iterator[None]:
    """Holds the run's folder for this process; it is created where it does not exist, and removed if it stays empty.

    What a killed process left half written is removed. Raises OutputExists where another process holds the folder, or
    made it since `require_free` found none.
    """
    is_new = _create(where.run, may_exist)
    try:
        with locked(where.lock):
            with suppress(FileNotFoundError):
                where.stop.unlink()
            _remove_leftovers(where)
            if is_new:
                write_json(where.run / RUN_LIST, {"files": list(RUN_FILES)}, force=True)
            yield
    finally:
        if is_new and where.run.is_dir() and {path.name for path in where.run.iterdir()} <= {RUN_LIST, LOCK}:
            for name in (RUN_LIST, LOCK):
                (where.run / name).unlink(missing_ok=True)
            with suppress(OSError):
                where.run.rmdir()


def _create(folder: Path, may_exist: bool) -> bool:
    """Creates the folder; returns whether there was none."""
    try:
        folder.mkdir()
    except FileExistsError:
        if not may_exist:
            raise _run_exists(folder) from None
        return False
    except OSError as error:
        raise OutputError(f"{folder} could not be created: {error.strerror}") from error
    return True


def _run_exists(folder: Path) -> OutputExists:
    return OutputExists(f"{folder} exists", action="continue it with --resume, or replace it with --force")


def without_plan(where: Places) -> FileMissing:
    """The error for the folder of a run that has no plan, or for what is not the folder of a run."""
    if where.is_running:
        return FileMissing(f"{where.run} has no plan yet: its run prepares itself", action="try again in a moment")
    return FileMissing(f"{where.run} is not the folder of a run", action="give a folder such as tuned.run")


def removed(run: Path) -> FileMissing:
    """The error for a run whose folder went while it was watched."""
    action = "`aprnb runs FOLDER` shows the runs of a folder by their present names"
    return FileMissing(f"{run} was removed or renamed while it was watched", action=action)


def clear(where: Places, used: Collection[str] = ()) -> None:
    """Removes what an earlier run wrote into the folder; raises OutputExists where it contains anything else.

    A stop that was asked for by now stays, and so do files that are `used`, where the run is executed again.
    """
    empty_folder(where.run, own_run_files(where.run), keep=(LOCK, RUN_LIST, where.stop.name, *used))


def _remove_leftovers(where: Places) -> None:
    inside = (path for folder in (where.run, where.states) for path in folder.glob(_HALF_WRITTEN))
    for path in (*inside, *leftovers(where.output), *leftovers(where.adapter), *leftovers(where.run)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
