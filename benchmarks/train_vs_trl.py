"""Real tokens per second of LoRA and QLoRA training, compared with TRL + PEFT + bitsandbytes at their best settings.

    python benchmarks/train_vs_trl.py [--method lora|qlora] [--rounds N]

Both start from the same file and see the same rows. Padding is not counted; the first steps warm up and are left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from record import HERE, machine, save, spread

ROWS, BATCH, LENGTH, RANK, STEPS, WARM_UP = 256, 16, 512, 16, 12, 2
METHOD = (
    f"Median (slowest to fastest) of {{rounds}} rounds in turn, each in its own process: {{model}}, {ROWS} rows of "
    f"{{tokens_per_row}} tokens, {BATCH} rows to a step, rank {RANK} on all linear modules, {STEPS} steps of which "
    f"{WARM_UP} warm up. Tokens are counted without padding. Asserted: tokens and gradient norm above 0 in every "
    "step. TRL's wrapped packing lets documents see each other; ours does not."
)
# What TRL was tried with; the best median is in the table, all are in the JSON.
SETTINGS: dict[str, dict[str, Any]] = {
    "rows padded to the longest, 16 at a time": {"per_device_train_batch_size": 16},
    "rows padded to the longest, grouped by length, 4 at a time": {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 4,
        "train_sampling_strategy": "group_by_length",
    },
    "packed to 512, wrapped": {
        "packing": True,
        "packing_strategy": "wrapped",
        "per_device_train_batch_size": 2,
    },
    "packed to 2048, wrapped": {
        "packing": True,
        "packing_strategy": "wrapped",
        "max_length": 2048,
        "per_device_train_batch_size": 1,
    },
}
DTYPES = ("float32", "bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--method", choices=("lora", "qlora"), default="lora")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepared = child("prepare", {"folder": scratch})
        tasks = {f"TRL, {dtype}, {name}": ("trl", {"settings": settings, "dtype": dtype})
                 for name, settings in SETTINGS.items() for dtype in DTYPES}  # fmt: skip
        tasks |= {f"aprnb, {dtype}": ("aprnb", {"dtype": dtype}) for dtype in DTYPES}
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in tasks}
        for _ in range(given.rounds):
            for name, (kind, task) in tasks.items():
                found[name].append(child(kind, {**task, "folder": str(folder), "method": given.method}))
    report(given, prepared, found)


def child(kind: str, task: dict[str, Any]) -> dict[str, Any]:
    """One measurement in a process of its own, so that no run warms the next."""
    script = Path(__file__).with_name("train_children.py")
    task = {**task, "rows": ROWS, "batch": BATCH, "length": LENGTH, "rank": RANK, "steps": STEPS, "warm_up": WARM_UP}
    run = subprocess.run(
        [sys.executable, str(script), kind, json.dumps(task)], capture_output=True, text=True, cwd=HERE
    )
    if run.returncode:
        return {"failed": run.stderr.strip().splitlines()[-1][:300] if run.stderr.strip() else f"exit {run.returncode}"}
    answer: dict[str, Any] = json.loads(run.stdout.strip().splitlines()[-1])
    assert kind == "prepare" or (answer["smallest_grad_norm"] > 0 and answer["tokens"] > 0), answer
    return answer


def report(given: argparse.Namespace, prepared: dict[str, Any], found: dict[str, list[dict[str, Any]]]) -> None:
    speeds = {name: spread([run["tokens_per_s"] for run in runs]) for name, runs in found.items()
              if all("tokens_per_s" in run for run in runs)}  # fmt: skip
    failed = {name: runs[0]["failed"] for name, runs in found.items() if name not in speeds}
    best = {who: max((name for name in speeds if name.startswith(who)), key=lambda name: speeds[name]["median"])
            for who in ("aprnb", "TRL")}  # fmt: skip
    ratio = speeds[best["aprnb"]]["median"] / speeds[best["TRL"]]["median"]
    document = {
        "question": f"Real tokens per second of {given.method} training, compared with TRL + PEFT + bitsandbytes",
        "method": METHOD.format(rounds=given.rounds, **prepared),
        "machine": machine("torch", "transformers", "peft", "bitsandbytes", "trl"),
        "ratio": ratio,
        "best": best,
        "tokens_per_s": speeds,
        "failed": failed,
        "runs": found,
    }
    ordered = sorted(speeds, key=lambda name: -speeds[name]["median"])
    rows = [[name, "{median:,.0f} ({min:,.0f}–{max:,.0f})".format(**speeds[name])] for name in ordered]
    save(
        f"train_vs_trl_{given.method}",
        document,
        ["setting", "tokens/s"],
        [*rows, ["best aprnb / best TRL", f"{ratio:.2f}"]],
    )


if __name__ == "__main__":
    main()
