"""The files that a run wrote into a folder, by the list it wrote there: what `--force` may remove (no torch)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aprnb.adapters.files import CONFIG_NAME, RECORD_NAME, WEIGHTS_NAME
from aprnb.errors import CheckpointError, FileMissing
from aprnb.formats.json_files import read_object
from aprnb.formats.sidecar_files import find_sidecar

ADAPTER_FILES = (CONFIG_NAME, WEIGHTS_NAME, RECORD_NAME)
"""Everything that a run writes into an adapter's folder."""
MAX_LIST_BYTES = 64 << 20


def listed_files(folder: Path, list_name: str, possible: Sequence[str]) -> tuple[str, ...]:
    """Those of `possible` that the JSON file `list_name` in `folder` names under `files`.

    None where the list is missing or unreadable: then nothing in the folder is known to be ours. The list can only
    shorten `possible`, so that a malicious list cannot name other files of the user.
    """
    try:
        path = find_sidecar(folder, list_name)
        listed = read_object(path, MAX_LIST_BYTES).get("files") if path else None
    except (CheckpointError, FileMissing):
        return ()
    return tuple(name for name in possible if isinstance(listed, list) and name in listed)


def own_adapter_files(folder: Path) -> tuple[str, ...]:
    """Names of the files in an adapter's folder that a run wrote; none where its record is missing."""
    return listed_files(folder, RECORD_NAME, ADAPTER_FILES)
