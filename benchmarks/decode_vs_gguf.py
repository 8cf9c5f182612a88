"""Decoding a 4096×4096 matrix to float32 and to bfloat16, compared with `gguf.quants.dequantize` (which gives float32).

python benchmarks/decode_vs_gguf.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import gguf
import numpy as np

from aprnb.formats.codecs import decode
from aprnb.formats.dtypes import BY_NAME
from record import machine, save, spread

Work = Callable[[], object]

ROUNDS, SIDE = 9, 4096
TYPES = {"Q4_K": "Q4_K", "Q6_K": "Q6_K", "Q8_0": "Q8_0", "AprQ4": "Q4_0"}
"""Ours → the peer's; AprQ4 is of the `apr` tool alone, its nearest relative is Q4_0."""
METHOD = (
    f"Median of {ROUNDS} rounds in turn, ratios round by round. `gguf` gets the matrix in the layout of a file, one "
    "row of blocks per row of the matrix, and the fastest of its settings, found by trying each three times first: "
    "fewer and longer rows, and the rows divided between two threads, as ours divides them. Both are called once "
    "before the rounds. Every result is asserted finite and not all zero, and equal to the peer's where the format is "
    "the same. The limit is np.copyto of the result, in the same rounds."
)


def settings(blocks: np.ndarray, kind: gguf.GGMLQuantizationType) -> dict[str, Work]:
    """Ways to call the peer, each for the whole matrix."""
    pool = ThreadPoolExecutor(2)

    def whole(rows: int) -> Work:
        shaped = blocks.reshape(rows, -1)
        return lambda: gguf.quants.dequantize(shaped, kind)

    def divided(rows: int, parts: int) -> Work:
        shaped = np.array_split(blocks.reshape(rows, -1), parts)
        return lambda: list(pool.map(lambda part: gguf.quants.dequantize(part, kind), shaped))

    return {
        **{f"{rows} rows": whole(rows) for rows in (SIDE, SIDE // 16, 1)},
        **{f"{SIDE} rows in {parts} parts on two threads": divided(SIDE, parts) for parts in (2, 16, 64)},
    }


def best_setting(blocks: np.ndarray, kind: gguf.GGMLQuantizationType) -> tuple[str, Work]:
    ways = settings(blocks, kind)
    tried = {name: min(seconds(work) for _ in range(3)) for name, work in ways.items()}
    name = min(tried, key=lambda way: tried[way])
    return name, ways[name]


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def blocks_of(name: str) -> np.ndarray:
    """Valid random blocks: finite half-precision scales, every code."""
    dtype = BY_NAME[name]
    blocks = np.random.default_rng(0).integers(
        0, 256, (SIDE * SIDE // dtype.block_elements, dtype.block_bytes), np.uint8
    )
    for start in {"Q4_K": (0, 2), "Q6_K": (208,)}.get(name, (0,)):
        scale = np.random.default_rng(1).uniform(0.001, 0.01, len(blocks)).astype("<f2")
        blocks[:, start : start + 2] = scale.view(np.uint8).reshape(-1, 2)
    return blocks


def measure(name: str, peer: str) -> tuple[str, dict[str, dict[str, float]]]:
    dtype, blocks = BY_NAME[name], blocks_of(name)
    raw, kind = blocks.tobytes(), gguf.GGMLQuantizationType[peer]
    expected = gguf.quants.dequantize(blocks, kind)
    found = decode(raw, dtype, (SIDE, SIDE))
    assert np.isfinite(found).all()
    assert found.any()
    assert name != peer or np.array_equal(found.reshape(-1), expected.reshape(-1))
    target = np.empty_like(found)
    setting, theirs = best_setting(blocks, kind)
    rounds: dict[str, list[float]] = {"gguf": [], "F32": [], "BF16": [], "copy": []}
    for _ in range(ROUNDS):
        rounds["gguf"].append(seconds(theirs))
        rounds["F32"].append(seconds(lambda: decode(raw, dtype, (SIDE, SIDE))))
        rounds["BF16"].append(seconds(lambda: decode(raw, dtype, (SIDE, SIDE), to="BF16")))
        rounds["copy"].append(seconds(lambda: np.copyto(target, found)))
    ratios = {
        f"gguf / {to}": [a / b for a, b in zip(rounds["gguf"], rounds[to], strict=True)] for to in ("F32", "BF16")
    }
    limits = {
        f"{to} / copy": [a / b for a, b in zip(rounds[to], rounds["copy"], strict=True)] for to in ("F32", "BF16")
    }
    return setting, {key: spread(values) for key, values in {**rounds, **ratios, **limits}.items()}


def main() -> None:
    measured = {name: measure(name, peer) for name, peer in TYPES.items()}
    document = {
        "question": "Decode 4096×4096 block-quantised values",
        "method": METHOD,
        "machine": machine("gguf"),
        "settings": {name: setting for name, (setting, _) in measured.items()},
        "results": {name: found for name, (_, found) in measured.items()},
    }
    header = ["type", "gguf", "its setting", "to float32", "times faster", "to bfloat16", "times faster",
              "float32 / copy"]  # fmt: skip
    save("decode_vs_gguf", document, header, [row(name, *found) for name, found in measured.items()])


def row(name: str, setting: str, found: dict[str, dict[str, float]]) -> list[str]:
    def ms(key: str) -> str:
        return f"{1000 * found[key]['median']:.1f} ms"

    def times(key: str) -> str:
        return f"{found[key]['median']:.1f}"

    ours = [ms("F32"), times("gguf / F32"), ms("BF16"), times("gguf / BF16"), times("F32 / copy")]
    return [name, ms("gguf"), setting, *ours]


if __name__ == "__main__":
    main()
