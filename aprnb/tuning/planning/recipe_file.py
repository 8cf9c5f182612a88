"""Recipe files: TOML, untrusted, since it may be downloaded together with data or a checkpoint (no torch).

A recipe file contains training options. The outputs and what may be overwritten are given on the command line, in the
cell or in Python only, and the files that a recipe names are below the working directory: a downloaded recipe cannot
read, overwrite or delete anything elsewhere.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from aprnb.errors import CheckpointError, FileMissing, UsageProblem
from aprnb.formats.json_files import read_text
from aprnb.tuning.planning.recipe import OPTIONS
from aprnb.tuning.planning.recipe_reader import read_toml

MAX_RECIPE_BYTES = 32 << 10
_MOST_DOTS = 500
"""Python's TOML reader takes quadratic time for a key with many parts."""
NOT_FROM_FILES = ("force", "output", "resume")
_PATHS = ("data", "eval_data", "config", "chat_template", "start_adapter")


def read_recipe_file(path: Path) -> dict[str, Any]:
    """The options in the TOML file at `path`, by name.

    Raises FileMissing for a recipe that does not exist, UsageProblem for one that cannot be read, that sets one of
    `NOT_FROM_FILES`, or that names a file outside the working directory.
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
    options = read_toml(text, where=str(path))
    for name in NOT_FROM_FILES:
        if name in options:
            raise UsageProblem(
                f"the recipe {path} sets {name}", expected="training options, none about outputs",
                action=_move_out(name),
            )  # fmt: skip
    for name in _PATHS:
        if isinstance(options.get(name), str):
            _require_below_here(name, options[name], path)
    return options


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
    return f"remove {name} from the recipe file and give {OPTIONS[name].flag} as an option"
