"""Recognises files of other formats from their first bytes."""

from __future__ import annotations

from aprnb.errors import CheckpointError, UnsupportedFormat
from aprnb.formats.apr.legacy_containers import legacy_container
from aprnb.formats.source import LFS_POINTER

MAGIC, MAGIC_DRAFT, MAGIC_V1 = b"APR\0", b"APR2", b"APRN"
"""The format's own magic, its early draft's (same layout), and the old container's (same layout where byte 4 is 2)."""

_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "a zip archive (PyTorch .pt, .keras or .npz)", "import the original model to .apr"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", "unpack it first"),
    (b"\x89HDF", "an HDF5 file", "import the original model to .apr"),
    LFS_POINTER,
)


_EXPECTED = "the magic of an .apr, GGUF or safetensors file at byte 0"


def require_magic(head: bytes, path: object) -> None:
    """Raises UnsupportedFormat unless `head` (up to 64 bytes) is that of an `.apr` file, version 2."""
    if not head:
        raise CheckpointError(
            f"{path} is empty (0 bytes)", expected="an .apr, GGUF or safetensors file", action="write or copy it again"
        )
    legacy = legacy_container(head)
    if legacy:
        raise UnsupportedFormat(
            f"{path} is {legacy.name}",
            expected="magic APR\\0 and version 2 at byte 0",
            action="convert it with an older release of the apr tool, or import the original model again",
            facts=legacy.facts,
        )
    if head[:4] in (MAGIC, MAGIC_DRAFT, MAGIC_V1) or MAGIC.startswith(head[:4]):
        return
    found, action = _name(head)
    raise UnsupportedFormat(f"{path} is {found}", expected=_EXPECTED, action=action)


def _name(head: bytes) -> tuple[str, str]:
    for signature, name, action in _SIGNATURES:
        if head.startswith(signature):
            return name, action
    if len(head) > 9 and int.from_bytes(head[:8], "little") < 1 << 32 and head[8:9] == b"{":
        return "a safetensors file", "convert it with `apr import FILE.safetensors -o FILE.apr`"
    if head[0] == 0x80 and len(head) > 1 and head[1] in (2, 3, 4, 5):
        return "a Python pickle, which is never opened: it can run code", "import the original model to .apr"
    try:
        head[:60].decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < 56:
            return f"of an unknown kind (first bytes {head[:4].hex(' ')})", "check that this is the file you meant"
    if b"\0" in head:
        return f"of an unknown kind (first bytes {head[:4].hex(' ')})", "check that this is the file you meant"
    return "a text file", "check that this is the file you meant"
