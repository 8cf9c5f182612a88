"""Kills a run again and again, resumes it, and compares the end with a run that nobody killed.

    python tests/torture/run.py --count 200 [--seed 1]        (make torture COUNT=200)

A round is a chain of one to four kills with SIGKILL and a last process that may finish. Half of the kills come after a
random time, half at a random call that creates, renames or removes a file: in saves, in the adapter, the merge, the
manifest. Each process begins as a user would, with `resume="auto"`. Held after each round:

* the tuned model and the adapter have the bytes of the run that was not killed, and so have the steps' numbers
* no process started more than one save interval before the last step that was recorded
* the folder holds the same files, no half-written one among them
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

BASE = Path(__file__).parents[2] / "notebooks" / "pocket-qwen3.apr"
SAVE_EVERY, STEPS = 2, 12
ROWS = [{"instruction": f"Spell {word}.", "response": " ".join(word)} for word in ("fish", "cow", "hen", "goat")] * 3
OPTIONS: dict[str, Any] = {
    "data": ROWS, "batch_size": 2, "epochs": 2, "rank": 2, "lora_dropout": 0.1, "learning_rate": 1e-3,
    "device": "cpu", "dtype": "float32", "save_every": SAVE_EVERY, "val_split": 0.25,
}  # fmt: skip
WRITES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}


def process(folder: Path, kill_after_s: float | None, kill_at_call: int | None) -> int:
    """Trains in a fork of this process, which has imported everything; returns its exit status, -9 where killed."""
    child = os.fork()
    if child == 0:
        train(folder, kill_at_call)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train(folder: Path, kill_at_call: int | None) -> None:
    import aprnb

    calls = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal calls
        if event not in WRITES or (event == "open" and not is_writing(arguments)):
            return
        calls += 1
        if calls == kill_at_call:
            os.kill(os.getpid(), signal.SIGKILL)

    status = 1
    try:
        sys.addaudithook(count)
        run = aprnb.finetune(BASE, output=str(folder / "x.apr"), resume="auto", **OPTIONS)
        status = 0 if run.status == "finished" else 2
        if kill_at_call is None:
            (folder / "calls").write_text(str(calls))
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    os._exit(status)


def is_writing(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    return any(sign in str(mode) for sign in "wax+") or bool(
        isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
    )


def end_of(folder: Path) -> dict[str, Any]:
    """What has to be equal: bytes of the results, the last processes' numbers by step, the names of all files."""
    records = [json.loads(line) for line in (folder / "x.run" / "events.jsonl").read_text("utf-8").splitlines()]
    numbers = {record["step"]: (record["loss"], record["grad_norm"]) for record in records if record["event"] == "step"}
    files = ["x.apr", "x.adapter/adapter_model.safetensors", "x.adapter/adapter_config.json"]
    return {
        "results": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files},
        "numbers": numbers,
        "files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != "calls"),
    }


def steps_lost(folder: Path) -> int:
    """The most steps that a process began before the last recorded one."""
    last, most = 0, 0
    for line in (folder / "x.run" / "events.jsonl").read_text("utf-8").splitlines():
        record = json.loads(line)
        if record["event"] == "start":
            most = max(most, last - (record["resumed_from"] or 0))
            last = record["resumed_from"] or 0
        elif record["event"] == "step":
            last = record["step"]
    return most


def one_round(
    rng: random.Random, expected: dict[str, Any], whole_s: float, calls: int, tally: Counter[str]
) -> list[str]:
    """One chain of kills; returns what did not hold."""
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    chain: list[str] = []
    for _ in range(rng.randint(1, 4)):
        after, at = rng.uniform(0, 1.1 * whole_s), rng.randint(1, calls)
        by_time = rng.random() < 0.5
        chain.append(f"after {after:.3f} s" if by_time else f"at call {at}")
        status = process(folder, after if by_time else None, None if by_time else at)
        tally["kills" if status == -signal.SIGKILL else "ended before the kill"] += 1
        if status not in (-signal.SIGKILL, 0):
            return [f"{folder}: a process ended with {status} after {chain}"]
    status = process(folder, None, None)
    if status != 0:
        return [f"{folder}: the last process ended with {status} after {chain}"]
    found = end_of(folder)
    wrong = [f"{folder}: {name} differ after {chain}" for name in expected if found[name] != expected[name]]
    lost = steps_lost(folder)
    tally[f"at most {lost} steps repeated"] += 1
    if lost > SAVE_EVERY:
        wrong.append(f"{folder}: {lost} steps were lost after {chain}, the save interval is {SAVE_EVERY}")
    if not wrong:
        shutil.rmtree(folder)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="kills")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import peft  # noqa: F401  before the forks, with what a run imports
    import torch

    import aprnb.tuning.execution  # noqa: F401

    torch.set_num_threads(1)
    rng, tally, wrong = random.Random(given.seed), Counter[str](), list[str]()
    reference = Path(tempfile.mkdtemp(prefix="torture-reference-"))
    begun = time.monotonic()
    assert process(reference, None, None) == 0
    whole_s, calls = time.monotonic() - begun, int((reference / "calls").read_text())
    expected = end_of(reference)
    while tally["kills"] < given.count:
        wrong += one_round(rng, expected, whole_s, calls, tally)
        tally["rounds"] += 1
    shutil.rmtree(reference)
    print(
        f"{whole_s:.1f} s and {calls} calls without a kill; "
        + ", ".join(f"{count} {what}" for what, count in sorted(tally.items()))
    )
    print("\n".join(wrong) or "everything as without a kill")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
