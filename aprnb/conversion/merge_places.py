"""What a merge is given, checked by the names alone, before torch is imported or a file is read."""

from __future__ import annotations

import os
from pathlib import Path

from aprnb.adapters import CONFIG_NAME, is_adapter_folder
from aprnb.adapters.files import adapter_file
from aprnb.errors import FileMissing, UsageProblem
from aprnb.formats.atomic import require_place_of_file

AnyPath = str | os.PathLike[str]


def require_merge_places(base: AnyPath, adapter: AnyPath, output: AnyPath, force: bool) -> None:
    """Raises where base or adapter is missing, they are swapped, or the output cannot be written."""
    if Path(output).suffix.lower() != ".apr":
        raise UsageProblem(
            f"--output {output}", expected="a name that ends in .apr", action="convert the merged .apr to other formats"
        )
    if not os.path.lexists(base):
        raise FileMissing(f"no file at {base}", expected="the base, in any format")
    if is_adapter_folder(Path(base)):
        raise _no_base(base, adapter, output)
    adapter_file(Path(adapter), CONFIG_NAME)
    require_place_of_file(Path(output), force)


def _no_base(base: AnyPath, adapter: AnyPath, output: AnyPath) -> UsageProblem:
    if os.path.lexists(adapter) and not is_adapter_folder(Path(adapter)):
        return UsageProblem(
            f"{base} is an adapter and {adapter} is none: base and adapter are swapped",
            action=f"the base comes first: `aprnb merge {adapter} {base} --output {output}`",
        )
    return UsageProblem(f"the base {base} is an adapter", expected="the model that the adapter was trained on")
