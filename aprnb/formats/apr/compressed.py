"""`.apr` files whose bytes after the header are one compressed block, as one tool for the format packs them.

LZ4: u32 unpacked size, then one LZ4 block. Zstandard: a standard frame. The header's offsets are those of the unpacked
image: the 64 header bytes, then the unpacked block.
"""

from __future__ import annotations

from pathlib import Path

from aprnb.errors import CheckpointError, MissingExtra, TruncatedFile
from aprnb.formats.apr.header import HEADER_BYTES, LZ4, Header
from aprnb.formats.source import ByteSource

MAX_IMAGE_BYTES = 0x7E000000
"""The largest content of one LZ4 block, by LZ4's definition; the same limit is used for Zstandard."""
SLACK_BYTES = 48 << 20
"""How much larger than the file its image may be: both are in memory at once, and weights hardly compress."""
_MAX_WINDOW_BYTES = 8 << 20
_CHUNK_BYTES = 1 << 20


class ImageSource(ByteSource):
    """A header and a block in memory that are read like a file; `path` is the file that they were unpacked from."""

    def __init__(self, path: Path, head: bytes, block: bytes | bytearray) -> None:
        self.path, self._head, self._block, self.size_bytes = path, head, block, len(head) + len(block)

    def read(self, offset: int, size_bytes: int, what: str) -> bytearray:
        start, end = offset - len(self._head), offset + size_bytes - len(self._head)
        part = bytearray(self._head[offset : offset + size_bytes])
        part += memoryview(self._block)[max(0, start) : max(0, end)]
        if len(part) != size_bytes:
            raise TruncatedFile(
                f"the unpacked {self.path} ends at byte {self.size_bytes:,}, inside {what}",
                expected=f"bytes {offset:,} to {offset + size_bytes:,}",
            )
        return part

    def is_hole(self, offset: int, size_bytes: int) -> bool:  # noqa: ARG002 (a file's interface)
        return False

    def close(self) -> None:
        self._block = b""


def unpack(source: ByteSource, head: bytes, header: Header) -> ImageSource:
    """The unpacked image of a compressed file; closes `source`.

    Raises MissingExtra without the package, CheckpointError for a block that claims or gives an impossible size.
    """
    packed = source.read(HEADER_BYTES, source.size_bytes - HEADER_BYTES, "the compressed block")
    unpack_block = _unpack_lz4 if header.flags & LZ4 else _unpack_zstandard
    block = unpack_block(packed, source.path, header.data_offset - HEADER_BYTES)
    source.close()
    return ImageSource(source.path, head, block)


def _unpack_lz4(packed: bytearray, path: Path, least: int) -> bytes:
    try:
        import lz4.block
    except ImportError:
        raise MissingExtra("compression", "lz4") from None
    claimed = int.from_bytes(packed[:4], "little")
    _require_possible(claimed, path, least, min(MAX_IMAGE_BYTES, SLACK_BYTES + len(packed)))
    try:
        data: bytes = lz4.block.decompress(memoryview(packed)[4:], uncompressed_size=claimed)
    except (lz4.block.LZ4BlockError, MemoryError, ValueError) as error:
        raise _damaged(path, "an LZ4 block", str(error)) from None
    if len(data) != claimed:
        raise _damaged(path, "an LZ4 block", f"it gives {len(data):,} bytes and claims {claimed:,}")
    return data


def _unpack_zstandard(packed: bytearray, path: Path, least: int) -> bytearray:
    try:
        import zstandard
    except ImportError:
        raise MissingExtra("compression", "zstandard") from None
    most = min(MAX_IMAGE_BYTES, SLACK_BYTES + len(packed))
    data = bytearray()
    try:
        claimed = zstandard.frame_content_size(packed)
        if claimed >= 0:
            _require_possible(claimed, path, least, most)
        with zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).stream_reader(packed) as reader:
            while part := reader.read(_CHUNK_BYTES):
                data += part
                _require_possible(len(data), path, 0, most)
    except (zstandard.ZstdError, MemoryError) as error:
        raise _damaged(path, "a Zstandard frame", str(error)) from None
    _require_possible(len(data), path, least, most)
    return data


def _require_possible(unpacked: int, path: Path, least: int, most: int) -> None:
    if not least <= unpacked <= most:
        raise CheckpointError(
            f"the compressed block of {path} unpacks to {unpacked:,} bytes",
            expected=f"{least:,} (where the header puts the tensor data) to {most:,}",
            where=f"byte {HEADER_BYTES}",
        )


def _damaged(path: Path, what: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is flagged compressed but cannot be unpacked: {why.splitlines()[0] if why else 'cut short'}",
        expected=f"{what} after the header",
        where=f"byte {HEADER_BYTES}",
        action="copy or download the file again",
    )
