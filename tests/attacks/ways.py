"""The threat model as files: one small generator for each way in which a checkpoint can lie, with the reason.

`docs/threats.md` lists the same ways; a test holds the two together.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aprnb.errors import AprnbError, CheckpointError, TruncatedFile
from aprnb_tests import apr_bytes as b
from aprnb_tests import gguf_bytes as g
from aprnb_tests import safetensors_bytes as s

FOUR = struct.pack("<4f", 1, 2, 3, 4)


@dataclass(frozen=True)
class Attack:
    """`make` writes the file (or folder) into a folder and gives its path; `kind` is None where it opens, harmless."""

    way: str
    make: Callable[[Path], Path]
    kind: type[AprnbError] | None
    message: str = ""
    has_byte: bool = True


ATTACKS: list[Attack] = []


def attack(
    way: str, kind: type[AprnbError] | None, message: str = "", *, name: str = "x.apr", has_byte: bool = True
) -> Callable[[Callable[[Path], bytes | Path]], Callable[[Path], bytes | Path]]:
    """Registers a function that gives the file's bytes, or writes it itself and gives its path."""

    def register(function: Callable[[Path], bytes | Path]) -> Callable[[Path], bytes | Path]:
        def make(folder: Path) -> Path:
            made = function(folder)
            if isinstance(made, Path):
                return made
            (folder / name).write_bytes(made)
            return folder / name

        ATTACKS.append(Attack(way, make, kind, message, has_byte))
        return function

    return register


def file_of(*entries: bytes, metadata: object = None, data: bytes = b.pad(FOUR)) -> bytes:
    text = metadata if isinstance(metadata, bytes) else json.dumps(metadata or {"model_type": "test"}).encode()
    body = b.front(text, list(entries)) + data
    return body + struct.pack("<I", zlib.crc32(body))


def number(at: int, form: str, value: int) -> bytes:
    data = bytearray(b.small_file())
    struct.pack_into(form, data, at, value)
    return b.with_checksum(bytes(data))


@attack("a tensor count beyond the file", CheckpointError, "claims 4,294,967,295 tensors")
def _(folder: Path) -> bytes:
    return number(8, "<I", 0xFFFFFFFF)  # room for four billion entries would be reserved


@attack("offsets that overflow", TruncatedFile, "first one missing", has_byte=True)
def _(folder: Path) -> bytes:
    return file_of(b.entry("a", 0, (4,), 2**64 - 8, 16))  # offset + size wraps round to 8


@attack("sections in the wrong place", CheckpointError, "starts at byte|ends at byte")
def _(folder: Path) -> bytes:
    return number(32, "<Q", 2**63)  # the data section behind the end of every disk


@attack("overlapping payloads", CheckpointError, "overlap")
def _(folder: Path) -> bytes:
    return file_of(b.entry("a", 0, (4,), 0, 16), b.entry("b", 0, (4,), 8, 16))


@attack("sizes that disagree with shapes", CheckpointError, "takes 12 bytes")
def _(folder: Path) -> bytes:
    return file_of(b.entry("a", 0, (4,), 0, 12))


@attack("255 dimensions", CheckpointError, "255 dimensions")
def _(folder: Path) -> bytes:
    return file_of(b.entry("a", 0, (1,) * 255, 0, 4))


@attack("dimensions whose product overflows", CheckpointError, "claims shape")
def _(folder: Path) -> bytes:
    return file_of(b.entry("a", 0, (2**32, 2**32), 0, 16))  # 2**64 elements are 0 in 64 bits


@attack("deeply nested JSON", CheckpointError, "nested too deeply|not JSON")
def _(folder: Path) -> bytes:
    return file_of(b.entry("a", 0, (4,), 0, 16), metadata=b'{"a":' * 200_000 + b"1" + b"}" * 200_000)


@attack("JSON of millions of small values", CheckpointError, "values")
def _(folder: Path) -> bytes:
    return file_of(b.entry("a", 0, (4,), 0, 16), metadata=b'{"a":[' + b"[]," * 3_000_000 + b"1]}")


@attack("whole numbers of thousands of digits", CheckpointError, "metadata")
def _(folder: Path) -> bytes:
    return file_of(b.entry("a", 0, (4,), 0, 16), metadata=b'{"hidden_size":' + b"9" * 100_000 + b"}")


@attack("duplicate names", CheckpointError, "twice")
def _(folder: Path) -> bytes:
    return file_of(b.entry("a", 0, (4,), 0, 16), b.entry("a", 0, (4,), 0, 16))


@attack("names with control characters", None)
def _(folder: Path) -> bytes:
    return file_of(b.entry("a\x1b[2J\x07\r\nb", 0, (4,), 0, 16))


@attack("names with path separators", None)
def _(folder: Path) -> bytes:
    return file_of(b.entry("../../../etc/passwd", 0, (4,), 0, 16))


@attack("names and metadata with HTML", None)
def _(folder: Path) -> bytes:
    script = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    return file_of(b.entry(script, 0, (4,), 0, 16), metadata={"model_type": script, "architecture": script})


@attack("right-to-left marks", None)
def _(folder: Path) -> bytes:
    return file_of(b.entry("model.\u202ethgiew", 0, (4,), 0, 16), metadata={"architecture": "\u202eamall"})


@attack("names that are not UTF-8", CheckpointError, "not UTF-8")
def _(folder: Path) -> bytes:
    return file_of(b.entry("\udcff\udcfe", 0, (4,), 0, 16))


@attack("half of a surrogate pair", CheckpointError, "surrogate")
def _(folder: Path) -> bytes:
    return file_of(b.entry("a", 0, (4,), 0, 16), metadata=b'{"name":"\\ud800"}')


@attack("a claimed decompressed size", CheckpointError, "claims|decompress|compress")
def _(folder: Path) -> bytes:
    front = bytearray(b.front({}, [b.entry("a", 0, (4,), 0, 16)], flags=0x0401))
    return bytes(front[:64]) + struct.pack("<I", 0xFFFFFFF0) + b"\x1f" * 40  # 4 GB out of 40 bytes of LZ4


@attack("a wrong header checksum", CheckpointError, "checksum")
def _(folder: Path) -> bytes:
    data = bytearray(b.small_file())
    data[6] ^= 1
    return bytes(data)


@attack("NaN scales", None)
def _(folder: Path) -> bytes:
    block = struct.pack("<H", 0x7E00) + bytes(range(16))  # AprQ4 with a NaN for its f16 scale
    return file_of(b.entry("a", 128, (32,), 0, 18), data=b.pad(block))


@attack("a tokenizer with a million empty merges", CheckpointError, "values")
def _(folder: Path) -> bytes:
    merges = b'"",' * 999_999 + b'""'
    text = b'{"tokenizer.vocabulary":["a","b"],"tokenizer.merges":[' + merges + b"]}"
    return file_of(b.entry("a", 0, (4,), 0, 16), metadata=text)


@attack("a head without bytes beside no embedding", None)
def _(folder: Path) -> bytes:
    return file_of(b.entry("lm_head.weight", 0, (4, 4), 0, 0), b.entry("x", 0, (4,), 0, 16))  # a tie to nothing


@attack("a pickle under the checkpoint's name", CheckpointError, "never opened", has_byte=False)
def _(folder: Path) -> bytes:
    return b"\x80\x04cos\nsystem\n(S'true'\ntR." + bytes(80)


@attack("a named pipe as the path", CheckpointError, "not a regular file", has_byte=False)
def _(folder: Path) -> Path:
    os.mkfifo(folder / "x.apr")
    return folder / "x.apr"


@attack("an endless device as the path", CheckpointError, "not a regular file", has_byte=False)
def _(folder: Path) -> Path:
    return Path("/dev/zero")


@attack("a link to itself as the path", AprnbError, "cannot be reached|no file", has_byte=False)
def _(folder: Path) -> Path:
    (folder / "x.apr").symlink_to("x.apr")
    return folder / "x.apr"


@attack("a file that is torn", TruncatedFile, "first one missing|ends at byte")
def _(folder: Path) -> bytes:
    return b.small_file()[:-100]


@attack("a hostile config beside the file", None)
def _(folder: Path) -> bytes:
    (folder / "config.json").write_text('{"hidden_size":' * 50_000)
    return b.small_file(metadata={"architecture": "qwen3"})


@attack("a safetensors header beyond the file", TruncatedFile, "header", name="x.safetensors")
def _(folder: Path) -> bytes:
    return struct.pack("<Q", 90_000_000) + b"{}"


@attack("a safetensors header of millions of small values", CheckpointError, "values", name="x.safetensors")
def _(folder: Path) -> bytes:
    return s.file_of(b'{"a":[' + b"[]," * 2_000_000 + b"[]]}")


@attack("safetensors payloads that overlap", CheckpointError, "overlaps", name="x.safetensors")
def _(folder: Path) -> bytes:
    return s.small_file(b=s.info("BF16", [2], 12, 16))


@attack("an index that leads out of its folder", CheckpointError, "plain file name", has_byte=False)
def _(folder: Path) -> Path:
    name = "../../etc/passwd.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    return folder


@attack("a shard that is a link out of its folder", CheckpointError, "is a link", has_byte=False)
def _(folder: Path) -> Path:
    inner = folder / "model"
    inner.mkdir()
    (folder / "other.safetensors").write_bytes(s.small_file())
    (inner / "m.safetensors").symlink_to(folder / "other.safetensors")
    (inner / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "m.safetensors"}}))
    return inner


@attack("an index that names itself", CheckpointError, "end in .safetensors", has_byte=False)
def _(folder: Path) -> Path:
    name = "model.safetensors.index.json"
    (folder / name).write_text(json.dumps({"weight_map": {"a": name}}))
    return folder


@attack("GGUF counts beyond the file", CheckpointError, "tensor count", name="x.gguf")
def _(folder: Path) -> bytes:
    return g.header(2**60, 2**60)


@attack("GGUF strings beyond the file", CheckpointError, "ends|beyond|claims", name="x.gguf")
def _(folder: Path) -> bytes:
    return g.header(0, 1) + struct.pack("<Q", 2**62) + b"key"


@attack("GGUF arrays in arrays in arrays", CheckpointError, "nest|array", name="x.gguf")
def _(folder: Path) -> bytes:
    return g.header(0, 1) + g.text("k") + struct.pack("<I", g.ARRAY) + struct.pack("<IQ", g.ARRAY, 1) * 50_000


@attack("a data byte that changed", CheckpointError, "footer checksum")
def _(folder: Path) -> bytes:
    body = b.small_file()[:-4]
    return body + struct.pack("<I", zlib.crc32(body) ^ 1)  # found where the reader is asked to verify
