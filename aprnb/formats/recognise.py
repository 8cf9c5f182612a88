"""Names for files that are not `.apr`, from their first bytes."""

from __future__ import annotations

from aprnb.errors import CheckpointError, ForeignFormat

MAGIC = b"APR\0"

_V1 = "convert it with an older release of the apr tool, or import the original model again"
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"APRN", "an old `.apr` container (magic APRN)", _V1),
    (b"APR1", "an old whisper or JSON-indexed container (magic APR1)", _V1),
    (b"APR2", "an early `.apr` draft (magic APR2)", _V1),
    (b"PK\x03\x04", "a zip archive (PyTorch .pt, .keras or .npz)", "import the original model to .apr"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", "unpack it first"),
    (b"\x89HDF", "an HDF5 file", "import the original model to .apr"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch it with `git lfs pull`"),
)


def require_magic(head: bytes, path: object) -> None:
    """Raises ForeignFormat that names what the file is, unless `head` (up to 64 bytes) starts with `APR\\0`."""
    if head[:4] == MAGIC or (head and MAGIC.startswith(head)):
        return
    if not head:
        raise CheckpointError(f"{path} is empty (0 bytes)", expected="an .apr file", action="write or copy it again")
    found, action = _name(head)
    raise ForeignFormat(f"{path} is {found}", expected="magic APR\\0 at byte 0", action=action)


def _name(head: bytes) -> tuple[str, str]:
    for signature, name, action in _SIGNATURES:
        if head.startswith(signature):
            version = f", version {head[4]}" if signature == b"APRN" and len(head) > 4 else ""
            return name + version, action
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
