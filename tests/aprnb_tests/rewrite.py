"""Writes an open `.apr` file again, unchanged: to the byte where its writer kept the format's own rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from aprnb.errors import OutputError
from aprnb.formats.apr.header import COMPRESSED, FLAG_NAMES
from aprnb.formats.apr.writer import Layout, TensorSource, write_apr
from aprnb.formats.checkpoint import Checkpoint
from aprnb.formats.dtypes import CODES

_GGML_CODES = {"Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11, "Q5_K": 13}
"""Codes that only the tool's direct GGUF path writes: kept in a copy, never put into a new file."""


def rewrite(checkpoint: Checkpoint, path: Path, *, force: bool = False) -> None:
    """The same metadata, in their order, and the same tensors, in theirs; a part of a tensor in memory at a time.

    The result equals the source byte by byte if that has a sorted index, a header checksum, compact JSON without a
    repeated key, and its tensors one after the other. Otherwise all tensors are identical and the metadata equal.
    Raises OutputError for another format, and for what `write_apr` rejects.
    """
    contents = checkpoint.contents
    if contents.format != "apr" or len(contents.files) != 1:
        raise OutputError(f"{checkpoint.path} is no single .apr file", action="convert it with aprnb.convert")
    placed = sorted(checkpoint.tensors.values(), key=lambda entry: entry.offset)
    tensors = [
        TensorSource(
            entry.name,
            entry.dtype,
            entry.shape,
            lambda name=entry.name: checkpoint.raw_parts(name),  # type: ignore[misc]  # a lambda with a default has no type in mypy
            entry.size_bytes,
        )
        for entry in placed
    ]
    layout = Layout(
        metadata="given",
        data="given",
        footer=contents.checksums["footer"] != "absent",
        flags=_flags(contents.flags) & ~COMPRESSED,
        codes={**_GGML_CODES, **CODES},
    )
    write_apr(path, checkpoint.metadata, tensors, force=force, layout=layout)


def with_metadata(source: Path, target: Path, metadata: Mapping[str, Any]) -> Path:
    """A file at `target` with the tensors of `source` and these metadata."""
    checkpoint = Checkpoint(source)

    def parts(name: str) -> Callable[[], bytes]:
        return lambda: checkpoint.raw(name)

    tensors = [
        TensorSource(name, entry.dtype, entry.shape, parts(name), entry.size_bytes)
        for name, entry in checkpoint.tensors.items()
    ]
    write_apr(target, metadata, tensors)
    return target


def _flags(names: Iterable[str]) -> int:
    """The flags that `Header.flag_names` named."""
    bits = {name: bit for bit, name in FLAG_NAMES.items()}
    return sum(bits[name] if name in bits else int(name, 16) for name in names)
