"""What was written about the architecture is read back from a skeleton before a weight is copied.

So a field which GGUF cannot express is an error and not a silent default.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aprnb.architecture import Architecture, resolve
from aprnb.architecture.evidence import rope
from aprnb.conversion.gguf.header import architecture_values, longrope_factor, rope_tensors, without_window
from aprnb.errors import ArchitectureError, NoSpace, OutputError
from aprnb.formats import open_checkpoint
from aprnb.formats.atomic import failed_to_write
from aprnb.formats.gguf.values import GgufValue
from aprnb.formats.gguf.writer import GgufTensor, gguf_front
from aprnb.formats.metadata import same


def require_expressed(architecture: Architecture, weights: Sequence[GgufTensor]) -> None:
    """Reads the architecture back from a sparse file with its keys; raises for the fields that differ."""
    header, tensors = architecture_values(architecture), [*weights, *rope_tensors(architecture)]
    with _temporary_folder() as folder:
        skeleton = Path(folder) / "skeleton.gguf"
        try:
            _write_skeleton(skeleton, header, tensors)
        except OSError as error:
            raise _no_temporary(error) from error
        with open_checkpoint(skeleton) as checkpoint:
            try:
                found = resolve(checkpoint)
            except ArchitectureError as error:
                raise OutputError(f"GGUF cannot express this {architecture.model_type}: {error.found}") from error
    meant = _comparable(architecture.fields())
    read = _comparable(found.fields())
    if architecture.family.gguf.slug == found.family.gguf.slug:  # a Mistral model is a llama in GGUF
        read["model_type"] = architecture.model_type
    lost = [name for name in meant if not same(read.get(name), meant[name])]
    if lost:
        values = "; ".join(f"{name} {meant[name]} (read back as {read.get(name)})" for name in lost)
        raise OutputError(f"GGUF cannot express this {architecture.model_type}: {values}", action=without_window(lost))


@contextmanager
def _temporary_folder() -> Iterator[str]:
    try:
        made = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    except OSError as error:
        raise _no_temporary(error) from error
    with made as folder:
        yield folder


def _no_temporary(error: OSError) -> OutputError:
    """The error where the skeleton of the target cannot be written; only its size is that of the target."""
    if error.errno == errno.EFBIG:
        return failed_to_write(Path("the GGUF file"), error)
    kind = NoSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else OutputError
    return kind(
        f"no temporary file can be written to check the target: {error.strerror}",
        action="free some space in the folder for temporary files, or set TMPDIR to another one",
    )


def _comparable(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields by what they compute.

    Configs may repeat the earlier context length inside `rope_scaling`, give a share of the head where an integer
    number of its elements is rotated, and state the usual attention factor or not.
    """
    found, key = dict(fields), "original_max_position_embeddings"
    scaling = dict(fields.get("rope_scaling") or {})
    if scaling and key in fields and scaling.get(key) == fields[key]:
        del scaling[key]
    if scaling.get("rope_type") == "longrope":
        scaling["attention_factor"] = longrope_factor(fields)
    if scaling.get("rope_type") == "yarn" and not scaling.get("mscale"):
        scaling["attention_factor"] = scaling.get("attention_factor") or rope.yarn_attention_factor(scaling["factor"])
    if scaling:
        found["rope_scaling"] = scaling
    if share := fields.get("partial_rotary_factor"):
        found["partial_rotary_factor"] = int(fields["head_dim"] * share) / fields["head_dim"]
    return found


def _write_skeleton(path: Path, values: Mapping[str, GgufValue], tensors: Sequence[GgufTensor]) -> None:
    """The front and the RoPE factors of a GGUF file; weights are holes."""
    front = gguf_front(values, tensors)
    with path.open("wb") as file:
        file.write(front)
        offset = len(front)
        for tensor in tensors:
            if tensor.name.startswith("rope_"):
                file.seek(offset)
                file.writelines(tensor.parts())
            offset += -(-tensor.size_bytes // 32) * 32
        file.truncate(offset)
