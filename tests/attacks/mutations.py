"""Seeded damage to real files: header fields, metadata, index entries, data; knowing the layout or blind."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable
from typing import Any

from aprnb_tests.apr_bytes import pad, with_checksum

ODD_NUMBERS = (0, 1, 2, 3, 7, 63, 64, 65, 255, 256, 1 << 16, (1 << 31) - 1, 1 << 32, (1 << 63) - 1, (1 << 64) - 1)
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3.5, 1e308, 1e-40, 10**400, "", "qwen3", "\u202ellama", "<script>alert(1)</script>",
    "x" * 5000, [], {}, [None], [[[]]], {"a": 1}, "\x00\x1b[31m", "{{ 10**10 }}", "../../etc/passwd", [1, "a", None],
)  # fmt: skip
HEADER_FIELDS = (("<H", 6), ("<I", 8), ("<Q", 12), ("<I", 20), ("<Q", 24), ("<Q", 32), ("<I", 40))
"""Flags, tensor count, metadata offset and size, index offset, data offset, checksum."""

Mutation = Callable[[random.Random, bytearray], bytes]


def odd_number(rng: random.Random, near: int, size: int) -> int:
    choices = (*ODD_NUMBERS, near + 1, near - 1, near + 64, near - 64, near * 2, size, size - 1, size + 1)
    return rng.choice(choices) % (1 << 64)


def odd_value(rng: random.Random) -> Any:
    """A copy: a case may change it further, and no case may depend on the ones before."""
    return copy.deepcopy(rng.choice(ODD_VALUES))


def flip_anywhere(rng: random.Random, data: bytearray) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def flip_in_front(rng: random.Random, data: bytearray) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 4))):
        data[rng.randrange(min(len(data), rng.choice((64, 4096, 40_000))))] ^= 1 << rng.randrange(8)
    return with_checksum(bytes(data)) if data[:3] == b"APR" and rng.random() < 0.7 else bytes(data)


def cut(rng: random.Random, data: bytearray) -> bytes:
    return bytes(data[: rng.randrange(len(data))])


def extend(rng: random.Random, data: bytearray) -> bytes:
    return bytes(data) + rng.randbytes(rng.choice((1, 3, 64, 1000)))


def splice(rng: random.Random, data: bytearray) -> bytes:
    """A stretch of the file over another place of it."""
    size = rng.choice((1, 8, 64, 1000))
    start, target = rng.randrange(len(data)), rng.randrange(len(data))
    data[target : target + size] = data[start : start + size]
    return bytes(data)


def header_field(rng: random.Random, data: bytearray) -> bytes:
    if len(data) < 64 or data[:3] != b"APR":
        return foreign_index(rng, data)
    form, at = rng.choice(HEADER_FIELDS)
    (value,) = struct.unpack_from(form, data, at)
    limit = 1 << (8 * struct.calcsize(form))
    struct.pack_into(form, data, at, odd_number(rng, value, len(data)) % limit)
    return with_checksum(bytes(data)) if rng.random() < 0.9 else bytes(data)


def index_entry(rng: random.Random, data: bytearray) -> bytes:
    """One field of one entry; the entries are found by reading them in order."""
    places = entry_places(data)
    if not places:
        return flip_in_front(rng, data)
    start, name_end, dims = rng.choice(places)
    what = rng.choice(("code", "ndim", "dim", "offset", "size", "name", "name length", "dims swapped"))
    numbers = name_end + 2
    if what == "code":
        data[name_end] = rng.choice((0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 30, 77, 128, 129, 255))
    elif what == "ndim":
        data[name_end + 1] = rng.choice((0, 1, 2, 3, 8, 9, 255))
    elif what == "name" and name_end > start + 2:
        data[rng.randrange(start + 2, name_end)] = rng.randrange(256)
    elif what == "name length":
        struct.pack_into("<H", data, start, rng.choice((0, 1, 255, 256, 257, 65_535)))
    elif what == "dims swapped" and dims >= 2:
        first = data[numbers : numbers + 8]
        data[numbers : numbers + 8] = data[numbers + 8 : numbers + 16]
        data[numbers + 8 : numbers + 16] = first
    else:
        slot = {"offset": dims, "size": dims + 1}.get(what, rng.randrange(max(1, dims)))
        (value,) = struct.unpack_from("<Q", data, numbers + 8 * slot)
        struct.pack_into("<Q", data, numbers + 8 * slot, odd_number(rng, value, len(data)))
    return bytes(data)


def entry_places(data: bytes | bytearray) -> list[tuple[int, int, int]]:
    """Start, end of the name and number of dims of every entry; empty where the index cannot be followed."""
    if len(data) < 64 or data[:3] != b"APR":
        return []
    count, index, end = struct.unpack_from("<I", data, 8)[0], *struct.unpack_from("<QQ", data, 24)
    places = []
    while len(places) < count and index + 4 <= min(end, len(data)):
        name_end = index + 2 + struct.unpack_from("<H", data, index)[0]
        if name_end + 2 > len(data) or (following := name_end + 2 + 8 * (data[name_end + 1] + 2)) > len(data):
            break
        places.append((index, name_end, data[name_end + 1]))
        index = following
    return places


def swap_entries(rng: random.Random, data: bytearray) -> bytes:
    """Offset and size of two tensors change places."""
    places = entry_places(data)
    if len(places) < 2:
        return flip_in_front(rng, data)
    (_, one, dims), (_, other, more) = rng.sample(places, 2)
    first, second = one + 2 + 8 * dims, other + 2 + 8 * more
    data[first : first + 16], data[second : second + 16] = data[second : second + 16], data[first : first + 16]
    return bytes(data)


def duplicate_entry(rng: random.Random, data: bytearray) -> bytes:
    """An entry over another of the same length: its tensor twice, or one gone; or one more where there is room."""
    places = entry_places(data)
    if len(places) < 2:
        return foreign_index(rng, data) if data[:3] != b"APR" else flip_in_front(rng, data)
    chosen, size = rng.choice(places), 0
    ends = {start: name_end + 2 + 8 * (dims + 2) for start, name_end, dims in places}
    size = ends[chosen[0]] - chosen[0]
    alike = [start for start, end in ends.items() if end - start == size and start != chosen[0]]
    target = rng.choice(alike or [places[-1][0]])
    data[target : target + size] = data[chosen[0] : chosen[0] + size]
    return bytes(data)


def metadata(rng: random.Random, data: bytearray) -> bytes:
    """A key or value of the JSON changes; the offsets of the file are updated."""
    if len(data) < 64 or data[:3] != b"APR":
        return flip_in_front(rng, data)
    count, _, size, index, start = struct.unpack_from("<IQIQQ", data, 8)
    try:
        parsed = json.loads(data[64 : 64 + size])
    except ValueError:
        return flip_in_front(rng, data)
    if not isinstance(parsed, dict) or not parsed or not 64 <= index <= start <= len(data):
        return flip_in_front(rng, data)
    for _ in range(rng.choice((1, 1, 3))):
        _change(rng, parsed)
    text = json.dumps(parsed, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    body = bytearray(data[:64]) + pad(text) + data[index:]
    moved = 64 + len(pad(text)) - index
    struct.pack_into("<IQIQQ", body, 8, count, 64, len(text), index + moved, start + moved)
    return with_checksum(bytes(body))


def _change(rng: random.Random, parsed: dict[str, Any]) -> None:
    key = rng.choice(list(parsed) or ["x"])
    value, what = parsed.get(key), rng.random()
    if what < 0.2:
        parsed.pop(key, None)
    elif what < 0.3:
        parsed[rng.choice(("num_attention_heads", "hidden_dim", "hf_config", "quantization", "x" * 300))] = value
    elif isinstance(value, list) and value and what < 0.7:
        value[rng.randrange(len(value))] = odd_value(rng)
    elif isinstance(value, dict) and value and what < 0.7:
        _change(rng, value)
    elif isinstance(value, int) and not isinstance(value, bool) and what < 0.8:
        parsed[key] = odd_number(rng, value, 1 << 20)
    else:
        parsed[key] = odd_value(rng)


def foreign_index(rng: random.Random, data: bytearray) -> bytes:
    """A field of a safetensors header, or a number in the front of a GGUF file."""
    if data[8:9] == b"{":
        return _safetensors_field(rng, data)
    if data[:4] != b"GGUF":
        return index_entry(rng, data)
    form = rng.choice(("<I", "<Q"))
    at = rng.choice((8, 16, rng.randrange(24, min(len(data), rng.choice((400, 30_000))) - 8)))
    (value,) = struct.unpack_from(form, data, at)
    struct.pack_into(form, data, at, odd_number(rng, value, len(data)) % (1 << (8 * struct.calcsize(form))))
    return bytes(data)


def _safetensors_field(rng: random.Random, data: bytearray) -> bytes:
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
        name = rng.choice([name for name in header if name != "__metadata__"])
        info = header[name]
        what = rng.choice(("dtype", "shape", "offsets", "swap", "name", "any"))
        if what == "dtype":
            info["dtype"] = rng.choice(("F64", "F32", "F16", "BF16", "I8", "F8_E4M3", "X", 5))
        elif what == "shape":
            info["shape"] = info["shape"][::-1] if rng.random() < 0.5 else [odd_value(rng), *info["shape"]]
        elif what == "offsets":
            info["data_offsets"][rng.randrange(2)] = odd_number(rng, info["data_offsets"][1], len(data))
        elif what == "swap":
            other = header[rng.choice([name for name in header if name != "__metadata__"])]
            info["data_offsets"], other["data_offsets"] = other["data_offsets"], info["data_offsets"]
        elif what == "name":
            header[name + rng.choice(("x", "\n", "/..", "\u202e"))] = header.pop(name)
        else:
            info[rng.choice(list(info))] = odd_value(rng)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return flip_in_front(rng, data)  # an earlier mutation broke it
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + bytes(data[8 + length :])


MUTATIONS: tuple[Mutation, ...] = (
    *(flip_anywhere, flip_in_front, flip_in_front, cut, extend, splice, header_field, header_field),
    *(foreign_index, index_entry, index_entry, duplicate_entry, swap_entries, metadata, metadata, metadata),
)


def mutated(rng: random.Random, data: bytes) -> bytes:
    """`data` after one to three mutations."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(MUTATIONS)(rng, bytearray(data)) or b"\0"
    return data
