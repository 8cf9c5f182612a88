"""Recipe files: TOML, untrusted, since it may be downloaded together with data or a checkpoint (no torch).

A recipe file contains training options, and may name the model. What may be overwritten is given on the command line,
in the cell or in Python only, and the files that a recipe names are below the working directory: a downloaded recipe
cannot read, overwrite or delete anything elsewhere.

`NAME.run/recipe.toml`, the recipe of a run, also takes its rows and its config from the run's folder, its model from
where that was, and writes where the run did: it executes the run again. A model is only read, as a checkpoint.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from aprnb.errors import CheckpointError, FileMissing, UsageProblem
from aprnb.formats.json_files import read_text
from aprnb.formats.sidecar_files import safe_path
from aprnb.tuning.data.sources.several import parts_of
from aprnb.tuning.planning.recipe import OPTIONS
from aprnb.tuning.planning.recipe_reader import read_toml

RECIPE = "recipe.toml"
MODEL = "model"
"""The key of the checkpoint."""
FILES_OF_A_RUN = {"data": "rows.jsonl", "eval_data": "eval-rows.jsonl", "config": "config.json"}
"""What the recipe of a run names in the run's folder."""
MAX_RECIPE_BYTES = 32 << 10
_MOST_DOTS = 500
"""Python's TOML reader takes quadratic time for a key with many parts."""
RUN_SUFFIX = ".run"
NOT_FROM_FILES = ("force", "output", "resume")
_PATHS = (MODEL, "data", "eval_data", "config", "chat_template", "start_adapter")


def read_recipe_file(path: Path, given: Collection[str] = ()) -> dict[str, Any]:
    """The options in the TOML file at `path`, by name, without those that are `given` elsewhere; `model` among them.

    Raises FileMissing for a recipe that does not exist, UsageProblem for one that cannot be read, that sets one of
    `NOT_FROM_FILES`, or that names a file outside the working directory; the recipe of a run may name its model there.
    """
    try:
        text = read_text(path, MAX_RECIPE_BYTES)
    except FileMissing:
        raise FileMissing(f"there is no recipe at {path}") from None
    except CheckpointError as error:
        found = f"the recipe cannot be read: {error.found}"
        raise UsageProblem(found, expected=error.expected, where=error.where, action=error.action) from None
    if max(line.count(".") for line in text.split("\n")) > _MOST_DOTS:
        raise UsageProblem(f"the recipe {path} has a line with more than {_MOST_DOTS} dots", expected="a short key")
    options = read_toml(text, where=str(path), texts=(MODEL,))
    for name in NOT_FROM_FILES:
        if name in options:
            raise UsageProblem(
                f"the recipe {path} sets {name}", expected="training options, none about outputs",
                action=_move_out(name),
            )  # fmt: skip
    options = {name: value for name, value in options.items() if name not in given}
    own = _of_the_run(path, options)
    for name in _PATHS:
        for value, _ in parts_of(options.get(name)) if name not in own else ():
            if isinstance(value, str):
                _require_below_here(name, value, path)
    return {**options, **own}


def _of_the_run(path: Path, options: dict[str, Any]) -> dict[str, Any]:
    """What the recipe at `path` names in its run's folder, its model, and its output; nothing for any other recipe."""
    folder = path.parent
    if path.name != RECIPE or folder.resolve().suffix != RUN_SUFFIX:
        return {}
    folder = folder.resolve() if folder.suffix != RUN_SUFFIX else folder
    inside = {name: str(safe_path(folder, file)) for name, file in FILES_OF_A_RUN.items() if options.get(name) == file}
    return {
        **({MODEL: options[MODEL]} if MODEL in options else {}),
        **inside,
        "output": str(folder.with_suffix(".apr")),
    }


def _require_below_here(name: str, value: str, recipe: Path) -> None:
    """Raises UsageProblem for a path that leads out of the working directory; rows and templates as text are not paths.

    `~` is read both as a home folder and as a folder of that name: only some options expand it.
    """
    here = Path.cwd().resolve()
    readings = [Path(value)]
    with suppress(RuntimeError):  # no such home folder
        readings.append(Path(value).expanduser())
    for path in readings:
        try:
            target = path.resolve()
        except (OSError, RuntimeError, ValueError):  # a loop of links or a NUL: opening it fails
            continue
        if not target.is_relative_to(here):
            leads = f", which leads to {target}" if not path.is_absolute() else ""
            raise UsageProblem(
                f"the recipe {recipe} sets {name} to {value}{leads}", expected=f"a path below {here}",
                action=_move_out(name),
            )  # fmt: skip


def _move_out(name: str) -> str:
    if name == MODEL:
        return "give the checkpoint on the command line, before --recipe"
    return f"remove {name} from the recipe file and give {OPTIONS[name].flag} as an option"
