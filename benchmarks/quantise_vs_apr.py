"""Quantising seven 4096×4096 matrices (one layer), compared with the real tool's `apr convert --quantize`.

python benchmarks/quantise_vs_apr.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from math import prod
from pathlib import Path

import numpy as np

import aprnb
from aprnb.formats import TensorSource, write_apr
from aprnb.formats.codecs import encode
from aprnb.formats.dtypes import BY_NAME
from record import apr_binary, in_turn, machine, medians, ratios, save

ROUNDS, SIDE = 5, 4096
TYPES = {"AprQ8": ("q8", "int8"), "AprQ4": ("q4", "int4"), "Q4_K": ("q4_k", "q4k"), "Q6_K": ("q6_k", None)}
"""Our dtype → its word for our command and for the tool's, which writes no Q6_K."""
MATRICES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
            "mlp.up_proj", "mlp.down_proj")  # fmt: skip
METHOD = (
    f"Median of {ROUNDS} rounds in turn, ratios round by round. Commands: both tools convert one .apr of seven F32 "
    f"matrices of {SIDE}×{SIDE} from the start of the process to the written file; asserted: the same bytes in every "
    "tensor. In process: `encode` of one such matrix in memory. The limit is `cp` of the F32 file, which "
    "reads as much."
)


def shapes() -> dict[str, tuple[int, ...]]:
    named = {f"model.layers.0.{name}.weight": (SIDE, SIDE) for name in MATRICES}
    norms = {f"model.layers.0.{name}.weight": (SIDE,) for name in ("input_layernorm", "post_attention_layernorm")}
    small = {"model.embed_tokens.weight": (256, SIDE), "model.norm.weight": (SIDE,), "lm_head.weight": (256, SIDE)}
    return {**small, **norms, **named}


def write(path: Path) -> None:
    rng = np.random.default_rng(0)
    stated = {
        "hidden_size": SIDE, "num_layers": 1, "num_heads": 32, "num_kv_heads": 32, "vocab_size": 256, "head_dim": 128,
        "intermediate_size": SIDE, "max_position_embeddings": 4096, "rope_theta": 1e4, "rms_norm_eps": 1e-5,
        "architecture": "llama", "hf_model_type": "llama", "hf_architecture": "LlamaForCausalLM", "model_type": "llama",
    }  # fmt: skip
    write_apr(path, stated, [
        TensorSource(n, BY_NAME["F32"], s, lambda s=s: (rng.standard_normal(prod(s), np.float32) * 0.02).tobytes())
        for n, s in shapes().items()
    ])  # fmt: skip


def measure(name: str, source: Path, apr: str) -> dict[str, dict[str, float]]:
    ours, theirs, copy = (source.parent / file for file in ("ours.apr", "theirs.apr", "copy.apr"))
    word, peer = TYPES[name]
    matrix = (np.random.default_rng(0).standard_normal((SIDE, SIDE), np.float32) * 0.02).astype(np.float32)

    def by_command(command: list[str], target: Path) -> None:
        target.unlink(missing_ok=True)
        subprocess.run(command, capture_output=True, check=True)

    work = {
        "aprnb": lambda: by_command(
            [sys.executable, "-m", "aprnb", "convert", str(source), str(ours), "--dtype", word], ours
        ),
        "encode": lambda: encode(matrix, BY_NAME[name]),
        "copy": lambda: by_command(["cp", str(source), str(copy)], copy),
    }
    if peer:
        command = [apr, "convert", str(source), "--quantize", peer, "-o", str(theirs)]
        work["apr"] = lambda: by_command(command, theirs)
    rounds = in_turn(work, ROUNDS)
    if peer:
        require_equal(ours, theirs)
    found = medians(rounds) | {"aprnb / copy": ratios(rounds["aprnb"], rounds["copy"])}
    return found | ({"apr / aprnb": ratios(rounds["apr"], rounds["aprnb"])} if peer else {})


def require_equal(ours: Path, theirs: Path) -> None:
    mine, peer = aprnb.open(ours), aprnb.open(theirs)
    matrices = [name for name, shape in shapes().items() if shape == (SIDE, SIDE)]
    different = [name for name in matrices if mine.raw(name) != peer.raw(name)]
    assert not different, different


def main() -> None:
    apr = apr_binary()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "f32.apr"
        write(source)
        results = {name: measure(name, source, apr) for name in TYPES}
    document = {
        "question": "Quantise 4096×4096 matrices, compared with apr convert",
        "method": METHOD,
        "machine": machine(),
        "seconds": results,
    }
    header = ["type", "aprnb convert", "apr convert", "times faster", "one matrix in memory", "aprnb / cp"]
    save("quantise_vs_apr", document, header, [row(name, found) for name, found in results.items()])


def row(name: str, found: dict[str, dict[str, float]]) -> list[str]:
    peer = f"{found['apr']['median']:.2f} s" if "apr" in found else "writes none"
    faster = f"{found['apr / aprnb']['median']:.1f}" if "apr" in found else ""
    return [name, f"{found['aprnb']['median']:.2f} s", peer, faster, f"{1000 * found['encode']['median']:.0f} ms",
            f"{found['aprnb / copy']['median']:.1f}"]  # fmt: skip


if __name__ == "__main__":
    main()
