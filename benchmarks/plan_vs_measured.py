"""The plan of a run against the run: seconds and peak memory of recipes, one process each.

python benchmarks/plan_vs_measured.py [MODEL.gguf ...] [--only NAME]

The pocket checkpoints are always measured; published models (GGUF) are measured with few steps.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from record import HERE, POCKET, machine, save

ROWS = HERE.parent / "notebooks" / "ask-the-cow.jsonl"
REAL = HERE.parent / "tests" / "data" / "real"
POCKETS: dict[str, dict[str, Any]] = {
    "pocket qwen3, lora": {},
    "pocket qwen3, lora, float32": {"dtype": "float32"},
    "pocket qwen3, lora, rank 64": {"rank": 64},
    "pocket qwen3, lora, 2 rows per step": {"batch_size": 2},
    "pocket qwen3, lora, 10 epochs": {"epochs": 10},
    "pocket qwen3, lora, rows of 32 tokens": {"max_seq_len": 32},
    "pocket qwen3, lora, checkpointing": {"gradient_checkpointing": "on"},
    "pocket qwen3, lora, adapter only": {"adapter_only": True},
    "pocket qwen3, lora, each step evaluated": {"eval_every": 1},
    "pocket qwen3, qlora": {"method": "qlora"},
    "pocket qwen3, full": {"method": "full"},
    "pocket qwen3, full, float32": {"method": "full", "dtype": "float32"},
}
_SHORT: dict[str, Any] = {"max_steps": 6, "batch_size": 4, "eval_every": 6, "val_split": 0.05}
LARGE: dict[str, dict[str, Any]] = {
    "lora": {**_SHORT},
    "lora, float32": {**_SHORT, "dtype": "float32", "adapter_only": True},
    "lora, checkpointing": {**_SHORT, "gradient_checkpointing": "on", "adapter_only": True},
    "qlora": {**_SHORT, "method": "qlora"},
    "qlora, adapter only": {**_SHORT, "method": "qlora", "adapter_only": True},
    "full": {**_SHORT, "method": "full"},
}
METHOD = (
    "One process for each recipe. Planned and measured seconds are from the plan to the last file; `after 10 steps` "
    "compares the time left that step 10 (or the last) reported with the time that it took. Memory is the kernel's "
    "high-water mark of the process since the run began. CPU seconds show how busy the machine was: beside other "
    "programs, wall time exceeds what two threads compute."
)


def one(base: str, options: dict[str, Any]) -> dict[str, Any]:
    """Plans and executes one recipe in this process."""
    import aprnb
    from aprnb.tuning.planning.memory_use import process_peak_bytes
    from aprnb.tuning.training.events import Phase, Planned, StepEvent

    plan: dict[str, Any] = {}
    marks: list[tuple[str, float, int]] = []
    left: list[tuple[float, float]] = []

    def listener(event: object) -> None:
        now = time.perf_counter()
        if isinstance(event, Planned):
            plan.update(event.plan.to_json(), planned=now, cpu=time.process_time())
        if isinstance(event, StepEvent) and event.step <= 10 and event.remaining_s is not None:
            left[:] = [(now, event.remaining_s)]
        name = event.name if isinstance(event, Phase) else type(event).__name__
        marks.append((name, now, process_peak_bytes()))

    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run = aprnb.finetune(
            base, data=ROWS, device="cpu", output=str(Path(folder) / "tuned.apr"), listener=listener, **options
        )
        ended = time.perf_counter()
        found = run.to_json()
    now, remaining = left[0] if left else (ended, 0.0)
    phases: dict[str, list[float]] = {}
    for (name, start, _), (_, stop, peak) in zip(
        marks, [*marks[1:], ("", ended, found["peak_memory_bytes"])], strict=True
    ):
        known = phases.setdefault(name, [0.0, 0.0])
        known[0], known[1] = known[0] + stop - start, max(known[1], peak / 2**20)
    return {
        "planning_s": plan["planned"] - began,
        "planned_s": plan["seconds"],
        "measured_s": ended - plan["planned"],
        "cpu_s": time.process_time() - plan["cpu"],
        "left_planned_s": remaining,
        "left_measured_s": ended - now,
        "planned_bytes": plan["memory_bytes"],
        "measured_bytes": found["peak_memory_bytes"],
        "phases": {name: [round(value, 2) for value in values] for name, values in phases.items()},
    }


def child(base: Path, options: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", json.dumps([str(base), options])]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        sys.exit(run.stderr)
    return json.loads(run.stdout.splitlines()[-1])


def recipes(models: list[Path]) -> dict[str, tuple[Path, dict[str, Any]]]:
    found = {name: (POCKET, options) for name, options in POCKETS.items()}
    found |= {
        f"pocket qwen2, {name}": (REAL / "pocket-qwen2.apr", options)
        for name, options in (("lora", {}), ("full", {"method": "full"}))
    }
    for model in models:
        found |= {f"{model.stem}, {name}": (model, options) for name, options in LARGE.items()}
    return found


def off(planned: float, measured: float) -> str:
    return f"{100 * (planned / measured - 1):+.0f} %" if measured else "–"


def row(name: str, found: dict[str, Any]) -> list[str]:
    planned = found["planned_s"]["total"]
    memory = found["planned_bytes"]["total"], found["measured_bytes"]
    return [
        name, f"{planned:.1f} s", f"{found['measured_s']:.1f} s", off(planned, found["measured_s"]),
        f"{found['cpu_s']:.1f} s", off(found["left_planned_s"], found["left_measured_s"]),
        *(f"{size / 2**20:,.0f} MiB" for size in memory), off(*memory),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--only", help="recipes whose name contains this; nothing is saved")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(one(*json.loads(given.child))))
        return
    results: dict[str, Any] = {}
    for name, (base, options) in recipes(given.models).items():
        if given.only in (None, *([given.only] if given.only and given.only in name else [])):
            results[name] = child(base, options)
            print(" | ".join(row(name, results[name])), flush=True)
            if given.only:
                print(json.dumps(results[name], indent=1), flush=True)
    if given.only:
        return
    seconds = [abs(r["planned_s"]["total"] / r["measured_s"] - 1) for r in results.values()]
    memory = [abs(r["planned_bytes"]["total"] / r["measured_bytes"] - 1) for r in results.values()]
    document = {
        "question": "Do a plan's seconds and bytes come true?",
        "machine": machine("torch", "transformers", "peft"),
        "method": METHOD,
        "median_error": {"seconds": median(seconds), "bytes": median(memory)},
        "largest_error": {"seconds": max(seconds), "bytes": max(memory)},
        "recipes": results,
    }
    header = ["recipe", "planned", "measured", "off", "CPU", "time left after 10 steps, off", "memory planned",
              "measured", "off"]  # fmt: skip
    save("plan_vs_measured", document, header, [row(name, found) for name, found in results.items()])


if __name__ == "__main__":
    main()
