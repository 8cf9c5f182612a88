""".apr to safetensors, 1 GB of F32 (the tool's export always writes F32), compared with `apr export`.

python benchmarks/export_vs_apr.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from math import prod
from pathlib import Path

import numpy as np

import aprnb
from aprnb.formats import TensorSource, write_apr
from aprnb.formats.dtypes import BY_NAME
from record import HERE, apr_binary, machine, save, spread

sys.path.insert(0, str(HERE.parent / "tests"))
from aprnb_tests import story

ROUNDS = 3
SCALE = {story.VOCABULARY: 32_768, story.HIDDEN: 2048, story.INTERMEDIATE: 6144}
METHOD = (
    f"Median of {ROUNDS} rounds in turn, each a process of its own from the start of Python or of the tool. Each round "
    "asserts that both outputs hold the same tensors with the same bytes. The limit is `cp` of the file."
)


def shapes() -> dict[str, tuple[int, ...]]:
    """A qwen2 of 1 GB: 3 layers, hidden 2048, an untied head."""
    found = {name: tuple(SCALE.get(size, size) for size in shape) for name, shape in story.shapes(3).items()}
    kept = {name: shape for name, shape in found.items() if "_norm" not in name or "self_attn" not in name}
    for layer in range(3):
        start = f"model.layers.{layer}.self_attn."
        for part, rows in (("q", 2048), ("k", 1024), ("v", 1024)):
            kept[f"{start}{part}_proj.weight"] = (rows, 2048)
            kept[f"{start}{part}_proj.bias"] = (rows,)
        kept[f"{start}o_proj.weight"] = (2048, 2048)
    return kept


def write(path: Path) -> None:
    rng = np.random.default_rng(0)
    stated = {
        "hidden_size": 2048, "num_layers": 3, "num_heads": 16, "num_kv_heads": 8, "vocab_size": 32_768, "head_dim": 128,
        "intermediate_size": 6144, "max_position_embeddings": 4096, "rope_theta": 1e6, "rms_norm_eps": 1e-6,
        "architecture": "qwen2", "hf_model_type": "qwen2", "hf_architecture": "Qwen2ForCausalLM", "model_type": "qwen2",
    }  # fmt: skip
    write_apr(path, stated, [
        TensorSource(n, BY_NAME["F32"], s, lambda s=s: rng.standard_normal(prod(s), np.float32).tobytes())
        for n, s in shapes().items()
    ])  # fmt: skip


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - began


def main() -> None:
    apr = apr_binary()
    rounds: dict[str, list[float]] = {"aprnb": [], "apr": [], "copy": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, mine, theirs = folder / "x.apr", folder / "ours.safetensors", folder / "its" / "theirs.safetensors"
        theirs.parent.mkdir()  # the tool leaves a config.json there, with other heads than the file's
        write(source)
        for _ in range(ROUNDS):
            for path in (mine, theirs, folder / "copy"):
                path.unlink(missing_ok=True)
            rounds["aprnb"].append(seconds([sys.executable, "-m", "aprnb", "convert", str(source), str(mine)]))
            rounds["apr"].append(seconds([apr, "export", str(source), "--format", "safetensors", "-o", str(theirs)]))
            rounds["copy"].append(seconds(["cp", str(source), str(folder / "copy")]))
            ours, peer = aprnb.open(mine), aprnb.open(theirs)
            assert set(ours) == set(peer)
            assert all(ours.raw(tensor) == peer.raw(tensor) for tensor in ours)
        size = source.stat().st_size
    found = {key: spread(values) for key, values in rounds.items()}
    ratio = spread([a / b for a, b in zip(rounds["aprnb"], rounds["apr"], strict=True)])
    document = {"question": f".apr to safetensors, {size / 1e9:.2f} GB", "method": METHOD, "machine": machine(),
                "seconds": found, "aprnb / apr": ratio}  # fmt: skip
    row = [f"{found[key]['median']:.2f} s" for key in ("aprnb", "apr", "copy")]
    save(
        "export_vs_apr",
        document,
        ["aprnb convert", "apr export", "cp", "ours / its"],
        [[*row, f"{ratio['median']:.2f}"]],
    )


if __name__ == "__main__":
    main()
