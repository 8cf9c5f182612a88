"""File to NF4 module, Qwen3-0.6B's shape, compared with transformers + bitsandbytes from safetensors.

python benchmarks/load_vs_transformers.py
"""

from __future__ import annotations

import json
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
from record import HERE, machine, save, spread

sys.path.insert(0, str(HERE.parent / "tests"))
from aprnb_tests import story

ROUNDS, LAYERS = 3, 28
PEAK = """
def peak():  # not ru_maxrss, which a child inherits
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024
"""
OURS = (
    PEAK
    + """
import sys, time, torch, aprnb.model.build as build, bitsandbytes, aprnb
from aprnb.model.device import place
import transformers.models.qwen3.modeling_qwen3
before, began = peak(), time.perf_counter()
checkpoint = aprnb.open(sys.argv[1])
report = aprnb.check(checkpoint).raise_for_violations()
model = build.build_model(checkpoint, report, place("cpu", "bfloat16", "nf4"))
print("TOOK", time.perf_counter() - began, peak() - before, model.get_memory_footprint())
"""
)
THEIRS = (
    PEAK
    + """
import sys, time, torch, bitsandbytes
from transformers import BitsAndBytesConfig, Qwen3ForCausalLM
quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                  bnb_4bit_compute_dtype=torch.bfloat16)
before, began = peak(), time.perf_counter()
model = Qwen3ForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16, quantization_config=quantization,
                                         **SETTING)
print("TOOK", time.perf_counter() - began, peak() - before, model.get_memory_footprint())
"""
)
SETTINGS: tuple[dict[str, object], ...] = ({"device_map": {"": "cpu"}}, {"device_map": "auto"}, {})
METHOD = (
    f"Median of {ROUNDS} rounds in turn, each a process of its own; imports are not counted. Peak is the growth of the "
    "process's largest resident size while loading; final is the module's footprint. Asserted: all modules have the "
    "same footprint. transformers reads bfloat16 safetensors on all cores, with the fastest of three ways to say where "
    "the module goes, each tried once. The limit is reading the file's bytes with `cat`."
)


def shapes() -> dict[str, tuple[int, ...]]:
    """28 layers, hidden 1024, 16 heads of 128, 8 key/value heads, intermediate 3072, vocabulary 151,936, tied."""
    scale = {story.HIDDEN: 1024, story.INTERMEDIATE: 3072}
    found = {}
    for name, shape in story.shapes(LAYERS).items():
        rows = (
            2048
            if "q_proj" in name
            else 1024
            if "k_proj" in name or "v_proj" in name
            else scale.get(shape[0], shape[0])
        )
        columns = 2048 if "o_proj" in name else scale.get(shape[-1], shape[-1])
        found[name] = (rows, columns) if len(shape) == 2 else (scale.get(shape[0], shape[0]),)
    del found["lm_head.weight"]
    return found


def write(path: Path) -> None:
    rng = np.random.default_rng(0)
    stated = {
        "architecture": "qwen3", "hf_model_type": "qwen3", "model_type": "qwen3", "hidden_size": 1024, "head_dim": 128,
        "num_layers": LAYERS, "num_heads": 16, "num_kv_heads": 8, "vocab_size": story.VOCABULARY, "rope_theta": 1e6,
        "intermediate_size": 3072, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6,
    }  # fmt: skip

    def values(shape: tuple[int, ...]) -> bytes:
        numbers = rng.standard_normal(prod(shape), np.float32) * np.float32(0.02)
        return (numbers.view(np.uint32) >> 16).astype("<u2").tobytes()

    write_apr(path, stated, [
        TensorSource(n, BY_NAME["BF16"], s, lambda s=s: values(s)) for n, s in shapes().items()
    ])  # fmt: skip


def run(code: str, path: Path) -> tuple[float, float, float]:
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    seconds, peak, final = map(float, done.stdout.split("TOOK")[1].split())
    return seconds, peak, final


def best_setting(source: Path) -> str:
    """The peer's program with the setting that was fastest in one try each."""
    programs = [f"SETTING = {setting!r}\n{THEIRS}" for setting in SETTINGS]
    return min(programs, key=lambda program: run(program, source)[0])


def read(path: Path) -> float:
    began = time.perf_counter()
    subprocess.run(["cat", str(path)], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain, quantised, source = folder / "bf16.apr", folder / "q4k.apr", folder / "hf"
        write(plain)
        aprnb.convert(plain, quantised, dtype="q4_k")
        source.mkdir()
        aprnb.convert(plain, source / "model.safetensors")
        config = {
            "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_size": 1024, "head_dim": 128,
            "num_hidden_layers": LAYERS, "num_attention_heads": 16, "num_key_value_heads": 8, "rms_norm_eps": 1e-6,
            "vocab_size": story.VOCABULARY, "intermediate_size": 3072, "max_position_embeddings": 40960,
            "rope_theta": 1e6, "tie_word_embeddings": True, "dtype": "bfloat16",
        }  # fmt: skip
        (source / "config.json").write_text(json.dumps(config))
        theirs = best_setting(source)
        rounds: dict[str, list[tuple[float, float, float]]] = {"BF16": [], "Q4_K": [], "transformers": []}
        limits: dict[str, list[float]] = {kind: [] for kind in rounds}
        for _ in range(ROUNDS):
            rounds["BF16"].append(run(OURS, plain))
            rounds["Q4_K"].append(run(OURS, quantised))
            rounds["transformers"].append(run(theirs, source))
            for kind, path in (("BF16", plain), ("Q4_K", quantised), ("transformers", source / "model.safetensors")):
                limits[kind].append(read(path))
            assert len({round(taken[-1][2]) for taken in rounds.values()}) == 1
    found = {
        name: {key: spread([each[at] for each in taken]) for at, key in enumerate(("seconds", "peak", "final"))}
        for name, taken in rounds.items()
    }
    pairs = zip(rounds["BF16"], rounds["Q4_K"], rounds["transformers"], strict=True)
    ratios = [(bf16[0] / peer[0], q4k[0] / peer[0]) for bf16, q4k, peer in pairs]
    document = {
        "question": "From a file to an NF4 module of 0.6 B parameters",
        "method": METHOD,
        "machine": machine("torch", "transformers", "bitsandbytes"),
        "its setting": theirs.splitlines()[0],
        "rounds": found,
        "reading alone": {kind: spread(taken) for kind, taken in limits.items()},
        "ratios": ratios,
    }
    times = {"BF16": spread([r[0] for r in ratios]), "Q4_K": spread([r[1] for r in ratios])}

    def row(name: str) -> list[str]:
        figures = {key: value["median"] for key, value in found[name].items()}
        ratio = f"{times[name]['median']:.2f}" if name in times else "1"
        return [
            name,
            f"{figures['seconds']:.1f} s",
            ratio,
            f"{figures['peak'] / 1e6:.0f} MB",
            f"{figures['final'] / 1e6:.0f} MB",
            f"{spread(limits[name])['median']:.2f} s",
        ]

    save(
        "load_vs_transformers",
        document,
        ["from", "time", "time / its time", "peak", "final", "reading alone"],
        [row(name) for name in found],
    )


if __name__ == "__main__":
    main()
