"""Tokens per second of greedy generation on a CPU, compared with transformers on the converted folder.

python benchmarks/generate_vs_transformers.py MODEL.gguf     any published instruct model, such as Qwen2.5-Coder-0.5B
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

import aprnb
from record import in_turn, machine, medians, ratios, save

ASKED = "Write a Python module with classes for a queue, a stack and a linked list, with tests for each."
OURS, NF4, PEER = "aprnb", "aprnb, loaded as NF4", "transformers"
METHOD = (
    "Median of {rounds} rounds in turn in one process, {new} new tokens each, float32, {threads} thread(s) for all, "
    "after one generation of each that is not counted. Seconds include the prompt and, for NF4, decoding the weights. "
    "The peer gets the converted folder, its default attention (SDPA) and key-value cache, and token ids; "
    "aprnb also renders, encodes, decodes and streams. Asserted: every answer has the full length, and aprnb's and the "
    "peer's tokens are the same (NF4 rounds the weights, so its tokens may differ)."
)


def theirs(model: Any, ids: torch.Tensor, new: int) -> list[int]:
    settings = GenerationConfig(do_sample=False, max_new_tokens=new, pad_token_id=0)
    found = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    return found[0, ids.shape[1] :].tolist()


def measure(source: Path, folder: Path, rounds: int, new: int) -> dict[str, list[float]]:
    model, tokenizer = aprnb.load(source, device="cpu", dtype="float32")
    quantised, _ = aprnb.load(source, device="cpu", dtype="float32", quantize="nf4")
    peer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ours = partial(aprnb.generate, tokenizer=tokenizer, prompt=ASKED, max_new_tokens=new)
    first = ours(model)
    ids = torch.tensor([tokenizer.encode(first.prompt, add_special_tokens=False)])
    assert list(first.ids) == theirs(peer, ids, new)
    assert {first.stop_reason, ours(quantised).stop_reason} == {"length"}
    work = {OURS: partial(ours, model), PEER: partial(theirs, peer, ids, new), NF4: partial(ours, quantised)}
    return in_turn(work, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=64)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "folder"
        aprnb.convert(given.model, folder)
        seconds = measure(given.model, folder, given.rounds, given.new_tokens)
    times = {name: ratios(seconds[name], seconds[PEER]) for name in (OURS, NF4)}
    document = {
        "question": f"Greedy generation with {given.model.stem}, float32 on a CPU",
        "method": METHOD.format(rounds=given.rounds, new=given.new_tokens, threads=torch.get_num_threads()),
        "machine": machine("torch", "transformers", "bitsandbytes"),
        "new_tokens": given.new_tokens,
        "seconds": medians(seconds),
        "ratios": times,
    }

    def row(name: str) -> list[str]:
        took = document["seconds"][name]["median"]
        ratio = times.get(name, {"median": 1.0, "min": 1.0, "max": 1.0})
        spread = f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"
        return [name, f"{given.new_tokens / took:.2f} tokens/s", f"{took:.1f} s", spread]

    save("generate_vs_transformers", document, ["model", "rate", "time", "time / its time"], [row(n) for n in seconds])


if __name__ == "__main__":
    main()
