"""Index entries whose dtype code has had several meanings: the bytes of one tensor `a` and what they decode to.

Blocks are written by hand with the scale 0.5, so that every value is a multiple of it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from aprnb_tests.apr_bytes import entry, pad
from aprnb_tests.producers import METADATA, Case, whole

HALF = struct.pack("<e", 0.5)
BF16 = struct.pack("<4H", 0x3F80, 0x4000, 0x4040, 0x4080)  # 1, 2, 3, 4
Q4_0 = HALF + b"\x98" * 16  # low nibbles 8 are elements 0–15, high nibbles 9 the others; less 8
Q4_1 = HALF + HALF + b"\x10" * 16  # nibble · 0.5 + 0.5
Q5_0 = HALF + bytes(4) + b"\x10" * 16  # (nibble − 16) · 0.5
Q5_1 = HALF + HALF + bytes(4) + b"\x10" * 16
Q8_0 = HALF + b"\2" * 32
Q8_1 = HALF + HALF + b"\2" * 32
Q4_K = HALF + bytes(2) + b"\1" * 4 + bytes(4) + b"\1" * 4 + b"\x21" * 128  # scales 1, minima 0, nibbles 1 and 2
Q6_K = bytes(192) + b"\1" * 16 + HALF  # (0 − 32) · 1 · 0.5
APR_Q4_VALUES = [0.0, 0.5] * 16  # low nibble first, pair by pair
Q4_K_VALUES = ([0.5] * 32 + [1.0] * 32) * 4


def one(code: int, shape: tuple[int, ...], payload: bytes, metadata: Mapping[str, Any] = METADATA) -> bytes:
    return whole(metadata, (entry("a", code, shape, 0, len(payload)),), pad(payload))


def read_as(name: str, code: int, shape: tuple[int, ...], payload: bytes, values: list[float], reason: str) -> Case:
    """A code whose meaning here is not the format's own."""
    warning = rf"dtype code {code} is read as {name}, by its size \(a, byte 128\)"
    return Case(f"code {code} as {name}", reason, one(code, shape, payload), (warning,), values={"a": values})


EARLY = {"model_type": "transformer_lm_q4k"}
DIRECT, DRAFT = "the direct GGUF path writes GGML's numbers", "the early draft's number"

CODES = [
    read_as("BF16", 2, (4,), BF16, [1.0, 2.0, 3.0, 4.0], DRAFT),
    read_as("Q4_0", 2, (32,), Q4_0, [0.0] * 16 + [0.5] * 16, DIRECT),
    read_as("Q4_1", 3, (32,), Q4_1, [0.5] * 16 + [1.0] * 16, DIRECT),
    read_as("Q5_0", 6, (32,), Q5_0, [-8.0] * 16 + [-7.5] * 16, DIRECT),
    read_as("Q5_1", 7, (32,), Q5_1, [0.5] * 16 + [1.0] * 16, DIRECT),
    read_as("Q8_0", 8, (32,), Q8_0, [1.0] * 32, DIRECT),
    read_as("Q6_K", 9, (256,), Q6_K, [-16.0] * 256, "the early direct GGUF path's number"),
    read_as("Q8_0", 10, (32,), Q8_0, [1.0] * 32, "the early direct GGUF path's number"),
    read_as("Q2_K", 10, (256,), bytes(84), [0.0] * 256, DIRECT),
    read_as("Q3_K", 11, (256,), bytes(110), [0.0] * 256, DIRECT),
    read_as("Q5_K", 13, (256,), bytes(176), [0.0] * 256, DIRECT),
    read_as("BF16", 0, (4,), BF16, [1.0, 2.0, 3.0, 4.0], "the direct GGUF path's fallback"),
    read_as("Q2_K", 0, (256,), bytes(84), [0.0] * 256, "the direct GGUF path's fallback"),
    read_as("Q3_K", 0, (256,), bytes(110), [0.0] * 256, "the direct GGUF path's fallback"),
    Case(
        "code 3 as F64",
        "the format's own",
        one(3, (4,), struct.pack("<4d", 1, 2, 3, 4)),
        values={"a": [1.0, 2.0, 3.0, 4.0]},
    ),
    Case("code 6 as I8", "the format's own", one(6, (4,), b"\1\2\3\xff"), values={"a": [1.0, 2.0, 3.0, -1.0]}),
    Case("code 8 as AprQ4", "legacy number", one(8, (32,), Q4_0), values={"a": APR_Q4_VALUES}),
    Case(
        "code 9 as AprQ8",
        "legacy number",
        one(9, (4,), struct.pack("<f4b", 0.5, 2, 2, -2, 2)),
        values={"a": [1, 1, -1, 1]},
    ),
    Case(
        "code 21 floats",
        "84 bytes, which a padded Q2_K block would take too",
        one(0, (21,), bytes(84)),
        values={"a": [0.0] * 21},
    ),
    Case(
        "code 8 as Q4_K",
        "the early direct GGUF path: as many bytes as AprQ4, recognised by its model_type",
        one(8, (256,), Q4_K, EARLY),
        (r"dtype code 8 is read as Q4_K",),
        values={"a": Q4_K_VALUES},
    ),
    Case("code 8 as AprQ4 of 256", "any other model_type", one(8, (256,), Q4_0 * 8), values={"a": APR_Q4_VALUES * 8}),
    Case(
        "code 8 of no known writer",
        "no model_type",
        one(8, (256,), Q4_K, {"name": "x"}),
        rejected=r"can be AprQ4 or Q4_K.*byte 128",
    ),
    Case("code 9 of 32", "as many bytes as AprQ8 and as Q8_1", one(9, (32,), Q8_1), rejected=r"can be AprQ8 or Q8_1"),
    Case(
        "rows padded to blocks", "the matrix encoder", one(12, (2, 128), Q4_K * 2), values={"a": Q4_K_VALUES[:128] * 2}
    ),
    Case("rows in one run", "the older helper", one(12, (2, 128), Q4_K), values={"a": Q4_K_VALUES}),
    Case(
        "either",
        "3 × 200 takes three blocks both ways",
        one(12, (3, 200), Q4_K * 3),
        rejected=r"padded rows or one run",
    ),
    Case(
        "Q4_0 labelled F32",
        "an old defect of the direct path",
        one(0, (32,), Q4_0),
        rejected=r"takes 18 bytes; expected 128",
    ),
    Case("code 77", "no known writer", one(77, (4,), bytes(16)), rejected=r"dtype code 77, which no writer"),
]
