"""Every kind of `.apr` file in existence, byte by byte: what it is, why it exists, and the result of opening it.

The tensors are `a` = 1, 2, 3, 4 and `b` = 5, 6 unless the case says otherwise. With the metadata below the index
starts at byte 128 with an entry of 29 bytes, the data at 192, `b` at 256, and the footer at 320.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aprnb_tests.apr_bytes import entry, header, pad, with_checksum

A, B = struct.pack("<4f", 1, 2, 3, 4), struct.pack("<2f", 5, 6)
AB = {"a": [1.0, 2.0, 3.0, 4.0], "b": [5.0, 6.0]}
ENTRIES = (entry("a", 0, (4,), 0, 16), entry("b", 0, (2,), 64, 8))
METADATA: dict[str, Any] = {"model_type": "test"}


@dataclass(frozen=True)
class Case:
    """`warnings` are patterns, one for each; `rejected` is the error's pattern where the file does not open.

    `facts` are values of the header of a legacy container.
    """

    name: str
    reason: str
    data: bytes
    warnings: tuple[str, ...] = ()
    rejected: str | None = None
    values: Mapping[str, list[float]] = field(default_factory=lambda: AB)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)


def whole(
    metadata: Mapping[str, Any] | bytes = METADATA,
    entries: tuple[bytes, ...] = ENTRIES,
    data: bytes = pad(A) + pad(B),
    *,
    flags: int = 0x0400,
    footer: bool = True,
) -> bytes:
    """Header, metadata, index, data and footer, put together here and nowhere else."""
    text = metadata if isinstance(metadata, bytes) else json.dumps(metadata, separators=(",", ":")).encode()
    index = b"".join(entries)
    start = 64 + len(pad(text))
    front = header(len(entries), len(text), start, start + len(pad(index)), flags=flags)
    body = front + pad(text) + pad(index) + data
    return body + struct.pack("<I", zlib.crc32(body)) if footer else body


def changed(data: bytes, at: int, value: bytes, *, checksum: bool = True) -> bytes:
    """Header bytes replaced, header checksum (unless it is the change) and footer made right again."""
    data = data[:at] + value + data[at + len(value) :]
    data = with_checksum(data) if checksum else data
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


NO_LAYOUT = r"name no layout \(byte 6\)"
MAGIC_APR2, MAGIC_APRN = r"magic is APR2 \(byte 0\)", r"magic is APRN \(byte 0\)"
SHARD = {**METADATA, "sharding": {"shard_count": 2, "shard_index": 1}}
LONE = {**METADATA, "sharding": {"shard_count": 1, "shard_index": 0}}

SOUND = [
    Case("current", "what the in-memory writer leaves today", whole()),
    Case(
        "streaming",
        "the streaming writer lays the data in the order of arrival and sorts the index",
        whole(entries=(entry("a", 0, (4,), 64, 16), entry("b", 0, (2,), 0, 8)), data=pad(B) + pad(A)),
    ),
    Case("vocabulary flag", "a stamp sets HAS_VOCAB", whole(flags=0x0600)),
    Case("the only shard", "shard 0 of 1 is all there is", whole(LONE, flags=0x0410)),
    Case("an empty tensor", "takes no bytes and shares its offset", whole(
        entries=(*ENTRIES, entry("c", 0, (0,), 128, 0))), values={**AB, "c": []},
    ),
]  # fmt: skip

HEADERS = [
    Case(
        "no footer",
        "the direct GGUF path never writes one",
        whole(footer=False),
        (r"footer checksum is missing \(byte 320\)",),
    ),
    Case("no layout bit", "all writers before the bit existed", whole(flags=0), (NO_LAYOUT,)),
    Case(
        "checksum zero",
        "the early direct GGUF path left it out",
        changed(whole(), 40, bytes(4), checksum=False),
        (r"header checksum is 0 \(byte 40\)",),
    ),
    Case("APR2", "the early draft", changed(whole(flags=0), 0, b"APR2"), (MAGIC_APR2, NO_LAYOUT)),
    Case("APRN of version 2", "its v1-compatible mode", changed(whole(flags=0), 0, b"APRN"), (MAGIC_APRN, NO_LAYOUT)),
    Case("minor version", "no reader checks it", changed(whole(), 5, b"\7"), (r"2\.7 \(byte 5\)",)),
    Case("unknown flag", "readers do not look at it", whole(flags=0x8400), (r"0x8000 are not defined \(byte 6\)",)),
    Case("reserved bytes", "a writer used them", changed(whole(), 50, b"\1"), (r"not zero \(byte 50\)",)),
    Case(
        "metadata elsewhere",
        "the header says where they are",
        changed(whole(b" " * 64 + b'{"model_type":"test"}'), 12, struct.pack("<QI", 128, 21)),
        (r"metadata starts at byte 128 \(byte 12\)",),
    ),
    Case(
        "flag-only compression",
        "the tool sets the bit and compresses nothing",
        whole(flags=0x0401),
        (r"compressed \(byte 6\), but the bytes are not",),
    ),
    Case("tail", "something was appended", whole() + b"tail", (r"4 bytes follow the footer \(byte 324\)",)),
    Case("sharded flag alone", "a flag without its metadata", whole(flags=0x0410), (r"sharded \(byte 6\)",)),
    Case(
        "one shard of two",
        "a complete file with a part of the tensors",
        whole(SHARD, flags=0x0410),
        (r"one shard of several \(metadata from byte 64: shard_index 1 of 2\)",),
    ),
]

INDEXES = [
    Case(
        "unsorted index",
        "the early direct GGUF path did not sort",
        whole(entries=(entry("b", 0, (2,), 64, 8), entry("a", 0, (4,), 0, 16))),
        (r"not sorted by name \(a, byte 157\)",),
    ),
    Case(
        "unaligned data",
        "payloads without padding",
        whole(entries=(entry("a", 0, (4,), 0, 16), entry("b", 0, (2,), 16, 8)), data=A + B + bytes(40)),
        (r"not start on a multiple of 64 in the data section \(b, byte 208\)",),
    ),
    Case(
        "a gap in the data",
        "bytes that no tensor owns",
        whole(entries=(ENTRIES[0], entry("b", 0, (2,), 128, 8)), data=pad(A) + bytes(64) + pad(B)),
        (r"64 bytes of the data section belong to no tensor \(from byte 256\)",),
    ),
    Case(
        "a name of 300 bytes",
        "readers take any, the writer cuts at 256",
        whole(entries=(entry("n" * 300, 0, (4,), 0, 16),), data=pad(A)),
        (r"more than 256 bytes \(n{79}…, byte 128\)",),
        values={"n" * 300: AB["a"]},
    ),
    Case(
        "bytes after the index",
        "padding that is not zero",
        whole(entries=(ENTRIES[0], ENTRIES[1] + b"junk")),
        (r"after the last index entry are not zero: ignored \(byte 186\)",),
    ),
    Case(
        "a repeated name",
        "older readers took it",
        whole(entries=(ENTRIES[0], entry("a", 0, (2,), 64, 8))),
        rejected=r"a is listed twice \(byte 157",
    ),
]

METADATA_CASES = [
    Case(
        "every option null",
        "older writers put every absent option down as null",
        whole({"model_type": "test", "hidden_size": None, "license": None, "rope_theta": None}),
        metadata={"hidden_size": None},
    ),
    Case("no metadata", "one reader takes it for an empty object", whole(b""), (r"their size is 0 \(byte 20\)",)),
    Case(
        "null, then a value",
        "checkpoints of a trainer's first runs: typed null, custom value",
        whole(b'{"model_type":"test","hidden_size":null,"hidden_size":896}'),
        (r"list hidden_size more than once \(byte 104\)",),
        metadata={"hidden_size": 896},
    ),
    Case(
        "two values under one key",
        "one reader takes the last, another none",
        whole(b'{"model_type":"test","hidden_size":64,"hidden_size":896}'),
        rejected=r"list hidden_size twice.*bytes 85 and 102",
    ),
    Case(
        "null and an alias",
        "merges before aliases were made canonical",
        whole({**METADATA, "hidden_size": None, "hidden_dim": 896}),
        (r"spell hidden_size in 2 ways: hidden_size, hidden_dim \(byte 104\)",),
        metadata={"hidden_size": None, "hidden_dim": 896},
    ),
    Case(
        "float32 noise in an alias",
        "values that went through a generic JSON value",
        whole({**METADATA, "rms_norm_eps": 1e-06, "norm_eps": 9.999999974752427e-07}),
        (r"spell rms_norm_eps in 2 ways",),
    ),
    Case(
        "two spellings that disagree",
        "two readings",
        whole({**METADATA, "hidden_size": 64, "d_model": 896}),
        rejected=r"hidden_size 64 and d_model 896.*bytes 85 and 102",
    ),
    Case("alias alone", "the direct GGUF path", whole({**METADATA, "num_hidden_layers": 2})),
    Case(
        "quantization as text",
        "the first direct GGUF path",
        whole({**METADATA, "quantization": "Q4_K_M"}),
        (r"quantization is Q4_K_M \(byte 85\); the format requires an object",),
    ),
    Case(
        "a size as text", "rejected by the tool", whole({**METADATA, "hidden_size": "64"}), (r"hidden_size.*byte 85",)
    ),
    Case("model_type null", "rejected by the tool", whole({"model_type": None}), (r"model_type is null \(byte 65\)",)),
    Case(
        "spaces in the JSON",
        "pretty-printed by hand",
        whole(b'{ "model_type" : "test" ,\n  "hidden_size" : "64" }'),
        (r"hidden_size is 64 \(byte 92\)",),
    ),
]
