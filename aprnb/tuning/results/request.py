"""What a run was asked for, in its folder: `recipe.toml` with its rows, from which the run can be executed again.

The recipe holds the options that were given, as `%%apr_finetune` takes them, with absolute paths. Rows are copied to
`rows.jsonl` unless their file is large; a config that was given as an object becomes `config.json`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aprnb.errors import CheckpointError, FileMissing, UsageProblem
from aprnb.formats.atomic import atomic_file, write_json, write_text
from aprnb.formats.json_files import read_text
from aprnb.formats.sidecar_files import safe_path
from aprnb.tuning.planning.recipe import OPTIONS
from aprnb.tuning.planning.recipe_file import FILES_OF_A_RUN, NOT_FROM_FILES, RECIPE
from aprnb.tuning.planning.recipe_reader import read_toml

if TYPE_CHECKING:
    from aprnb.tuning.data.rows import RowSet
    from aprnb.tuning.preparation import Preparation
    from aprnb.tuning.results.places import Places

_COPIED_BYTES = 64 << 20
_MOST_RECIPE_BYTES = 1 << 20
_OF_THE_CALL = (*NOT_FROM_FILES, "plan", "verbose", "sweep")
_ROWS = ("data", "eval_data")


def write_request(where: Places, preparation: Preparation) -> None:
    """Writes the recipe, and the rows and the config that it needs, into the run's folder."""
    import tomli_w

    given = {**vars(preparation.options), **vars(preparation.asked)}
    kept = {
        name: given[name]
        for name, option in OPTIONS.items()
        if name not in (*_OF_THE_CALL, *_ROWS, "columns") and given[name] is not None and given[name] != option.default
    }
    for name, found in preparation.rows.items():
        kept[name] = _rows_path(where.run / FILES_OF_A_RUN[name], given[name], found)
    if isinstance(given["config"], Mapping):
        write_json(where.run / "config.json", given["config"], force=True)
        kept["config"] = "config.json"
    for name in ("config", "chat_template", "start_adapter"):
        if name in kept and kept[name] != "config.json" and Path(str(kept[name])).exists():
            kept[name] = str(Path(kept[name]).absolute())
    text = tomli_w.dumps({"model": str(preparation.checkpoint.path.absolute()), **kept}, multiline_strings=True)
    write_text(where.run / RECIPE, f"# aprnb finetune --recipe\n{text}", force=True)


def read_request(folder: Path) -> dict[str, Any]:
    """The arguments of `aprnb.finetune` that a run's folder holds, `model` among them, without its outputs.

    Raises FileMissing without a recipe, UsageProblem for one that cannot be read.
    """
    path = safe_path(folder, RECIPE)
    try:
        text = read_text(path, _MOST_RECIPE_BYTES)
    except FileMissing:
        raise FileMissing(f"there is no recipe in {folder}", action="give the folder of a run, NAME.run") from None
    except CheckpointError as error:
        raise UsageProblem(f"the recipe cannot be read: {error.found}", where=str(path)) from None
    options = read_toml(text, str(path), texts=("model",))
    odd = next((name for name in _OF_THE_CALL if name in options), None)
    if odd or not isinstance(options.get("model"), str):
        raise UsageProblem(f"{path} " + (f"sets {odd}" if odd else "names no model"), expected="the recipe of a run")
    for name, file in FILES_OF_A_RUN.items():
        if options.get(name) == file:
            options[name] = str(safe_path(folder, file))
    return options


def _rows_path(target: Path, source: Any, rows: RowSet) -> str:
    """Where the rows are found again: in the run's folder, or in their own file where that is large."""
    if isinstance(source, str | os.PathLike) and rows.path is not None:
        if rows.path.stat().st_size > _COPIED_BYTES:
            return str(rows.path.absolute())
        with atomic_file(target, force=True) as file, rows.path.open("rb") as original:
            shutil.copyfileobj(original, file)
    else:
        with atomic_file(target, force=True) as file:
            file.writelines(rows.lines())
    return target.name
