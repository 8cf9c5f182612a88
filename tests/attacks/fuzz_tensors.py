"""Seeded damage to safetensors files: malformed headers, valid files with other dtypes, shapes, names and values."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mutations import foreign_index, odd_value

from aprnb_tests.safetensors_bytes import file_of

WIDTHS = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2, "I8": 1,
    "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
ODD_VALUES = {
    "F64": ("000000000000f87f", "000000000000f07f", "000000000000f0ff", "ffffffffffffef7f", "0100000000000000"),
    "F32": ("0000c07f", "0000807f", "000080ff", "010080ff", "ffff7f7f", "01000000", "00000080", "000080bf"),
    "F16": ("007e", "007c", "00fc", "ff7b", "0100", "00bc"),
    "BF16": ("c07f", "807f", "80ff", "7f7f", "0100", "80bf"),
}
"""Little-endian NaN, infinities, largest, smallest and negative numbers."""


@dataclass
class _Tensor:
    name: str
    dtype: str
    shape: list[int]
    data: bytes


def changed_tensors(rng: random.Random, data: bytes) -> bytes:
    """The file with a field of its header changed, or written again with other tensors."""
    if rng.random() < 0.35:
        return foreign_index(rng, bytearray(data)) if data[8:9] == b"{" else data[::-1]
    try:
        tensors, about = _parsed(data)
        for _ in range(rng.choice((1, 1, 2, 5))):
            rng.choice(_CHANGES)(rng, tensors)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):  # an earlier mutation broke it
        return data[: len(data) // 2]
    if rng.random() < 0.05:
        about = rng.choice(({"a": "b"}, {}, odd_value(rng)))
    return _packed(tensors, about)


def _parsed(data: bytes) -> tuple[list[_Tensor], Any]:
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    about = header.pop("__metadata__", None)
    found = []
    for name, info in header.items():
        begin, end = info["data_offsets"]
        found.append(_Tensor(name, info["dtype"], list(info["shape"]), data[start + begin : start + end]))
    return found, about


def _packed(tensors: list[_Tensor], about: Any) -> bytes:
    header: dict[str, Any] = {} if about is None else {"__metadata__": about}
    parts, at = [], 0
    for tensor in tensors:
        if tensor.name not in header:
            end = at + len(tensor.data)
            header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [at, end]}
            parts.append(tensor.data)
            at = end
    return file_of(json.dumps(header).encode("utf-8", "surrogatepass"), b"".join(parts))


def _value(rng: random.Random, tensors: list[_Tensor]) -> None:
    """One element becomes NaN, infinite, huge, tiny or negative."""
    tensor = rng.choice(tensors)
    odd = bytes.fromhex(rng.choice(ODD_VALUES.get(tensor.dtype, ("ff",))))
    if len(tensor.data) >= len(odd):
        at = rng.choice((0, len(tensor.data) // len(odd) - 1, rng.randrange(len(tensor.data) // len(odd)))) * len(odd)
        tensor.data = tensor.data[:at] + odd + tensor.data[at + len(odd) :]


def _dtype(rng: random.Random, tensors: list[_Tensor]) -> None:
    """The same bytes as another dtype of the same width, or of another width with another last dimension."""
    tensor = rng.choice(tensors)
    wanted = rng.choice(list(WIDTHS))
    width, other = WIDTHS[tensor.dtype], WIDTHS[wanted]
    if width != other and tensor.shape:
        tensor.shape[-1] = tensor.shape[-1] * width // other
    tensor.dtype = wanted


def _shape(rng: random.Random, tensors: list[_Tensor]) -> None:
    """The same number of elements in another shape."""
    tensor = rng.choice(tensors)
    shape, count = tensor.shape, len(tensor.data) // WIDTHS[tensor.dtype]
    tensor.shape = rng.choice((shape[::-1], [count], [1, *shape], [*shape, 1], [count, 1], [1] * 5 + shape, []))


def _size(rng: random.Random, tensors: list[_Tensor]) -> None:
    """A dimension grows or shrinks, and the data with it."""
    tensor = rng.choice(tensors)
    if tensor.shape:
        axis, size = rng.randrange(len(tensor.shape)), rng.choice((0, 1, 2, 3, 256, 300))
        count = len(tensor.data) // max(1, tensor.shape[axis]) * size
        tensor.shape[axis] = size
        tensor.data = (tensor.data * (count // max(1, len(tensor.data)) + 1))[:count]


def _name(rng: random.Random, tensors: list[_Tensor]) -> None:
    tensor, other = rng.choice(tensors), rng.choice(tensors)
    parts = tensor.name.replace("/", ".").split(".")
    forms = (tensor.name + "x", other.name, "", "__metadata__", tensor.name.upper(), f"{tensor.name}\0", "\ud800")
    swaps = (("lora_A", "lora_B"), ("layers.0", "layers.1"), ("model/", "optimizer/"), ("exp_avg", "exp_avg_sq"))
    swapped = [tensor.name.replace(*swap) for swap in swaps]
    tensor.name = rng.choice((*forms, *swapped, ".".join(parts[1:]), tensor.name.replace(rng.choice(parts), "7")))


def _drop(rng: random.Random, tensors: list[_Tensor]) -> None:
    del tensors[rng.randrange(len(tensors))]


def _add(rng: random.Random, tensors: list[_Tensor]) -> None:
    tensor = rng.choice(tensors)
    name = rng.choice((tensor.name + ".more", "model/x", "optimizer/x", "random/cuda", "x", "random/x"))
    tensors.append(_Tensor(name, tensor.dtype, list(tensor.shape), tensor.data))


def _swap(rng: random.Random, tensors: list[_Tensor]) -> None:
    one, other = rng.choice(tensors), rng.choice(tensors)
    one.data, other.data, one.shape, other.shape = other.data, one.data, other.shape, one.shape


def _scale(rng: random.Random, tensors: list[_Tensor]) -> None:
    """All elements of a float32 tensor become one number."""
    tensor = rng.choice(tensors)
    number = struct.pack("<f", rng.choice((0.0, -1.0, 3e38, 1e-45, 1.0)))
    if tensor.dtype == "F32":
        tensor.data = number * (len(tensor.data) // 4)


def _shuffle(rng: random.Random, tensors: list[_Tensor]) -> None:
    rng.shuffle(tensors)


_CHANGES: tuple[Callable[[random.Random, list[_Tensor]], None], ...] = (
    *(_value, _value, _dtype, _shape, _size, _name, _name, _drop, _add, _swap, _scale, _shuffle),
)
