"""Rows per second of a whole fine-tuning run, from the command to its artefacts, compared with `apr finetune`.

    APRNB_FIXTURES=FOLDER python benchmarks/finetune_vs_apr.py

Both get pocket-qwen2, the same rows, LoRA of rank 8, one epoch, a sequence length of 128.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import apr_binary, machine, save, spread

ROUNDS, ROWS, RANK, LENGTH = 3, 64, 8, 128
METHOD = (
    f"Median (slowest to fastest) of {ROUNDS} rounds in turn: {ROWS} rows, LoRA rank {RANK}, one epoch, length "
    f"{LENGTH}, nothing held out for ours; time from the command to its end, start of the process and writing of "
    "all artefacts included (ours also merges, opens the result again and compares). Asserted for ours: every row "
    "in the plan, labelled tokens above 0, gradient norm above 0 in each step, the merged model written. `apr` "
    "adds its own system text to each row; its labelled tokens are those it reports."
)


def main() -> None:
    apr = apr_binary()
    named = os.environ.get("APRNB_FIXTURES")
    if not named:
        sys.exit("pocket-qwen2.apr is not here: set APRNB_FIXTURES to the folder that holds it")
    base = Path(named) / "pocket-qwen2.apr"
    corpus = (Path(named) / "sources" / "pocket-corpus.jsonl").read_text(encoding="utf-8").splitlines()[:ROWS]
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(ROUNDS):
            folder = Path(scratch) / str(number)
            folder.mkdir()
            rows = folder / "rows.jsonl"
            rows.write_text("\n".join(corpus) + "\n", encoding="utf-8")
            theirs.append(by_apr(apr, base, rows, folder))
            ours.append(by_aprnb(base, rows, folder))
    document = {
        "question": "Rows per second of a whole fine-tuning run, compared with apr finetune",
        "method": METHOD,
        "machine": machine("torch", "transformers", "peft"),
        "aprnb": {"rows_per_s": spread([found["rows_per_s"] for found in ours]), "runs": ours},
        "apr": {"rows_per_s": spread([found["rows_per_s"] for found in theirs]), "runs": theirs},
    }
    ratio = document["aprnb"]["rows_per_s"]["median"] / document["apr"]["rows_per_s"]["median"]
    rows_of = [[name, "{median:.2f} ({min:.2f}–{max:.2f})".format(**document[name]["rows_per_s"]),
                str(document[name]["runs"][0]["labelled_tokens"])] for name in ("aprnb", "apr")]  # fmt: skip
    save("finetune_vs_apr", {**document, "ratio": ratio}, ["tool", "rows/s", "labelled tokens"],
         [*rows_of, ["aprnb / apr", f"{ratio:.2f}", ""]])  # fmt: skip


def by_aprnb(base: Path, rows: Path, folder: Path) -> dict[str, Any]:
    output = folder / "ours.apr"
    command = [sys.executable, "-m", "aprnb", "finetune", str(base), "--data", str(rows), "--method", "lora",
               "--rank", str(RANK), "--epochs", "1", "--max-seq-len", str(LENGTH), "--val-split", "0",
               "--output", str(output), "--json"]  # fmt: skip
    started = time.perf_counter()
    run = subprocess.run(command, capture_output=True, text=True)
    taken = time.perf_counter() - started
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    events = [json.loads(line) for line in (folder / "ours.run" / "events.jsonl").read_text().splitlines()]
    steps = [event for event in events if event["event"] == "step"]
    assert all(step["grad_norm"] > 0 for step in steps if "loss" in step)
    assert found["labelled_tokens"] > 0
    assert output.is_file()
    plan = json.loads((folder / "ours.run" / "plan.json").read_text())
    assert plan["data"]["rows"] == ROWS, plan["data"]
    return {
        "rows_per_s": ROWS / taken,
        "seconds": taken,
        "labelled_tokens": found["labelled_tokens"],
        "loss": found["loss"],
    }


def by_apr(apr: str, base: Path, rows: Path, folder: Path) -> dict[str, Any]:
    command = [apr, "finetune", str(base), "-m", "lora", "-r", str(RANK), "-d", str(rows), "--epochs", "1",
               "-o", str(folder / "apr" / "x.apr"), "--max-seq-len", str(LENGTH)]  # fmt: skip
    (folder / "apr").mkdir()
    started = time.perf_counter()
    run = subprocess.run(command, capture_output=True, text=True)
    taken = time.perf_counter() - started
    printed = run.stdout + run.stderr
    (folder / "apr.log").write_text(printed, encoding="utf-8")
    assert run.returncode == 0, printed[-2000:]
    labelled = sum(int(count) for count in re.findall(r"Epoch \d+ complete: .*?tokens=(\d+)", printed))
    assert labelled > 0, printed[-2000:]
    return {"rows_per_s": ROWS / taken, "seconds": taken, "labelled_tokens": labelled}


if __name__ == "__main__":
    main()
