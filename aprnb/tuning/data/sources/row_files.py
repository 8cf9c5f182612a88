"""Rows of files: which files a path, folder or pattern means, unpacked and read by their content (no torch).

Files are untrusted: sizes are bounded, packed and unpacked; of a folder or pattern, hidden files are left out and links
that lead out are errors.
"""

from __future__ import annotations

import glob
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from aprnb.errors import AprnbError, CheckpointError, DataError, FileMissing, MissingExtra
from aprnb.formats.json_files import decoded, read_object
from aprnb.formats.sidecar_files import find_sidecar, safe_path
from aprnb.formats.source import is_file, is_folder, read_bytes
from aprnb.printable import first_names
from aprnb.tuning.data.forms import ROW_FORMS
from aprnb.tuning.data.sources.json_rows import json_array, json_lines
from aprnb.tuning.data.sources.tables import Numbered, arrow_rows, csv_rows, parquet_rows

MAX_DATA_BYTES = 4 << 30
"""Rows are held in memory, at several times the size of their file."""
MAX_FILES = 10_000
_ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_PACKED = (".gz", ".zst", ".zstd")
_GZIP, _ZSTANDARD, _PARQUET, _ZIP = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1", b"PK\x03\x04"
_CHUNK_BYTES = 1 << 20
_WHAT = f"files that end with {', '.join(_ENDINGS)}, packed or not ({', '.join(_PACKED)})"


def file_rows(path: Path, name: str) -> tuple[Numbered, bytes | None]:
    """The rows of a file, folder or pattern, and the bytes of a JSON Lines file that is not packed."""
    if is_folder(path):
        saved = _saved_dataset(path)
        return (_many(saved, arrow=True) if saved else _many(_folder_files(path))), None
    if glob.has_magic(str(path)) and not is_file(path):
        return _many(_pattern_files(path)), None
    raw = _read(path, MAX_DATA_BYTES)
    if not raw.strip():
        raise DataError(f"{path} is empty", expected="a file with rows", action=f"a row is {ROW_FORMS}")
    rows, is_lines = _rows(raw, path, name, MAX_DATA_BYTES)
    return rows, raw if is_lines else None


def _many(paths: list[Path], *, arrow: bool = False) -> Numbered:
    left = MAX_DATA_BYTES
    for path in paths:
        raw = _read(path, left)
        left -= len(raw)
        if arrow:
            yield from arrow_rows(raw, path.name, MAX_DATA_BYTES)
        elif raw.strip():
            yield from _rows(raw, path, path.name, MAX_DATA_BYTES)[0]


def _rows(raw: bytes, path: Path, name: str, most_bytes: int) -> tuple[Numbered, bool]:
    """The rows of a file, by what its bytes are and its name says; and whether it is plain JSON Lines."""
    data, ending = raw, path.suffix.lower()
    if packed := raw.startswith((_GZIP, _ZSTANDARD)):
        data = _unpacked(raw, path, most_bytes)
        ending = Path(path.stem).suffix.lower() if ending in _PACKED else ending
    if data.startswith(_PARQUET):
        return parquet_rows(data, name, most_bytes), False
    if data.startswith(_ZIP):
        raise DataError(
            f"{path} is a ZIP archive or an Excel file", expected=_WHAT, action="save it as CSV, or unpack it"
        )
    text = _text(data, path)
    if ending in (".csv", ".tsv"):
        return csv_rows(text, name, tabs=ending == ".tsv", most_bytes=most_bytes), False
    if text.lstrip().startswith("["):
        return json_array(text, name), False
    return json_lines(text, name), not packed


def _read(path: Path, limit: int) -> bytes:
    try:
        return read_bytes(path, limit)
    except FileMissing as error:
        raise FileMissing(error.found, action="check --data") from None
    except CheckpointError as error:
        raise DataError(error.found, expected="a file with rows") from None


def _text(raw: bytes, path: Path) -> str:
    try:
        return decoded(raw, path)
    except CheckpointError as error:
        raise _as_data_error(error) from None


def _unpacked(raw: bytes, path: Path, most_bytes: int) -> bytes:
    """What a gzip or Zstandard file holds, at most `most_bytes`."""
    kind = "gzip" if raw.startswith(_GZIP) else "Zstandard"
    parts: list[bytes] = []
    size_bytes = 0
    try:
        for part in _gzip_parts(raw) if kind == "gzip" else _zstandard_parts(raw):
            parts.append(part)
            size_bytes += len(part)
            if size_bytes > most_bytes:
                raise DataError(f"{path} unpacks to more than {most_bytes:,} bytes", action="split it into files")
    except (EOFError, OSError, zlib.error, ValueError) as problem:
        raise DataError(f"{path} is a damaged {kind} file: {problem}", action="pack it again") from None
    return b"".join(parts)


def _gzip_parts(raw: bytes) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=io.BytesIO(raw)) as file:
        while part := file.read(_CHUNK_BYTES):
            yield part


def _zstandard_parts(raw: bytes) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError:
        raise MissingExtra("compression", "zstandard") from None
    try:
        with zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as reader:
            while part := reader.read(_CHUNK_BYTES):
                yield part
    except zstandard.ZstdError as problem:
        raise ValueError(problem) from None


def _folder_files(folder: Path) -> list[Path]:
    """The files with rows of a folder itself, in the order of their names."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}", action="check --data") from None
    found = [_safe(folder, name) for name in names if _has_rows(name)]
    if not found:
        inside = f"; it holds {first_names(names, 5)}" if names else ""
        raise DataError(f"the folder {folder} holds no file with rows{inside}", expected=_WHAT, action="check --data")
    return _not_too_many(found, folder)


def _pattern_files(pattern: Path) -> list[Path]:
    """The files that a pattern such as `data/*.jsonl` names, in the order of their names."""
    parts = pattern.parts
    fixed = next(at for at, part in enumerate(parts) if glob.has_magic(part))
    home = Path(*parts[:fixed]).resolve()
    found: list[Path] = []
    for path in map(Path, sorted(glob.glob(str(pattern), recursive=True))):  # noqa: PTH207  Path.glob finds hidden files
        if not is_folder(path):
            if not path.parent.resolve().is_relative_to(home):
                raise DataError(f"{path} leads out of {home} through a link", action="give the folder itself")
            found.append(_safe(path.parent, path.name))
    if not found:
        raise FileMissing(f"no file is named {pattern}", action="check --data")
    return _not_too_many(found, pattern)


def _saved_dataset(folder: Path) -> list[Path]:
    """The Arrow files of a folder that `datasets` saved; none for another folder."""
    try:
        if find_sidecar(folder, "dataset_dict.json"):
            splits = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
            raise DataError(
                f"{folder} is a saved DatasetDict of {first_names(splits, 8)}", expected="one split",
                action=f"give one of them, such as {folder / 'train'}",
            )  # fmt: skip
        if not find_sidecar(folder, "dataset_info.json") or (state := find_sidecar(folder, "state.json")) is None:
            return []
        files = read_object(state).get("_data_files")
        names = (
            [file.get("filename") if isinstance(file, dict) else file for file in files]
            if isinstance(files, list)
            else []
        )
        if not names or not all(isinstance(name, str) for name in names):
            raise DataError(f"{state} names no data files", expected="a folder saved by datasets")
        return _not_too_many([safe_path(folder, str(name)) for name in names], folder)
    except CheckpointError as error:
        raise _as_data_error(error) from None


def _has_rows(name: str) -> bool:
    path = Path(name.lower())
    ending = Path(path.stem).suffix if path.suffix in _PACKED else path.suffix
    return ending in _ENDINGS and path.name not in ("dataset_info.json", "dataset_infos.json")


def _safe(folder: Path, name: str) -> Path:
    try:
        return safe_path(folder, name)
    except CheckpointError as error:
        raise _as_data_error(error) from None


def _not_too_many(found: list[Path], source: Path) -> list[Path]:
    if len(found) > MAX_FILES:
        raise DataError(f"{source} has {len(found):,} files", expected=f"at most {MAX_FILES:,}")
    return found


def _as_data_error(error: AprnbError) -> DataError:
    return DataError(error.found, expected=error.expected, where=error.where, action=error.action)
