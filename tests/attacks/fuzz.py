"""The fuzzer: mutated real files through opening, architecture, contract, statistics and conversion.

    python tests/attacks/fuzz.py --count 2000 --seed 0        (make fuzz COUNT=2000 SEED=0)
    python tests/attacks/fuzz.py --replay 1234 --seed 0       one case again, its file kept

A case is a number: with the seed it gives file and mutations. Properties: no exception outside `aprnb.errors`, no
crash, no hang, no memory beyond 64 MB and twice the file, and no wrong verdict: whatever a green contract says about a
tensor is what an independent reader of the same bytes finds. Cases run in worker processes; one that dies is named and
replaced.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

from judges import hold_to_bytes
from mutations import mutated

import aprnb
from aprnb.errors import AprnbError
from aprnb.inspection import tensor_statistics
from aprnb_tests.memory import forget_peak, peak

PROCESSOR_SECONDS, SECONDS, MEMORY_BYTES = 10, 120, 3 << 30
SLACK_BYTES = 64 << 20


def bases(folder: Path) -> list[Path]:
    """Real files of each format, two of them converted into `folder`; more where APRNB_FIXTURES names a folder."""
    pocket = ROOT / "notebooks" / "pocket-qwen3.apr"
    found = [pocket, *sorted((ROOT / "tests" / "data" / "real").glob("*.apr"))]
    found += sorted((ROOT / "tests" / "data" / "foreign").glob("*.apr"))
    if not (folder / "hf").exists():
        aprnb.convert(pocket, folder / "pocket.gguf")
        aprnb.convert(pocket, folder / "hf")
    found += [folder / "pocket.gguf"] * 5 + [folder / "hf" / "model.safetensors"] * 5
    more = os.environ.get("APRNB_FIXTURES")
    if more:
        found += sorted(Path(more).glob("gguf/*.gguf")) + sorted(Path(more).glob("sources/*/model.safetensors"))
    return [path for path in found if path.stat().st_size < 2_000_000]


def examine(path: Path, rng: random.Random) -> str:
    """Takes the file through everything; returns how far it came. What may not happen is raised."""
    try:
        checkpoint = aprnb.open(path)
    except AprnbError:
        return "refused"
    with checkpoint:
        report = aprnb.inspect(checkpoint)
        if rng.random() < 0.1:
            str(report), report.to_html()
        if report.architecture is None:
            return "no architecture"
        hold_to_bytes(checkpoint, path.read_bytes(), green=bool(report.ok))
        if not report.ok:
            return "contract broken"
        try:
            sound = tensor_statistics(checkpoint).ok
            if rng.random() < 0.3:
                target = path.with_name("converted" + rng.choice((".apr", ".gguf", ".safetensors")))
                aprnb.convert(checkpoint, target, dtype=rng.choice((None, "f16")), force=True)
        except AprnbError:
            return "values refused"
        return "green" if sound else "damaged values"


def build(seed: int, number: int, folder: Path) -> tuple[Path, random.Random]:
    rng = random.Random(f"{seed}/{number}")
    base = rng.choice(bases(folder))
    path = folder / f"case{base.suffix}"
    if base.suffix == ".safetensors":
        (folder / "case").mkdir(exist_ok=True)
        shutil.copyfile(folder / "hf" / "config.json", folder / "case" / "config.json")
        path = folder / "case" / "model.safetensors"
    path.write_bytes(mutated(rng, base.read_bytes()))
    return path, rng


def work(seed: int, first: int, last: int) -> None:
    """Runs cases and tells of each on standard output: its number before, its outcome behind."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.signal(signal.SIGALRM, _hang)
    signal.signal(signal.SIGPROF, _hang)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "warm.apr").write_bytes(bases(folder)[0].read_bytes())
        for number in range(10):  # imports and caches are no case's memory
            examine(folder / "warm.apr", random.Random(number))
        for number in range(first, last):
            print(f"{number} ", end="", flush=True)
            path, rng = build(seed, number, folder)
            signal.alarm(SECONDS)
            signal.setitimer(signal.ITIMER_PROF, PROCESSOR_SECONDS)
            before = forget_peak()
            try:
                outcome = examine(path, rng)
            except BaseException as error:
                outcome = "DEFECT " + "".join(traceback.format_exception(error)).replace("\n", " | ")[-1500:]
            signal.alarm(0)
            signal.setitimer(signal.ITIMER_PROF, 0)
            grown, size = peak() - before, path.stat().st_size
            if grown > SLACK_BYTES + 2 * size and outcome[:6] != "DEFECT":
                outcome = f"DEFECT memory grew by {grown >> 20} MiB on a file of {size:,} bytes"
            print(outcome, flush=True)


def _hang(*_: object) -> None:
    raise TimeoutError(f"longer than {PROCESSOR_SECONDS} s of processor time, or {SECONDS} s")


def run(seed: int, count: int, first: int = 0) -> tuple[Counter[str], list[str]]:
    """Outcomes with how often each came, and the defects with their case's number."""
    outcomes: Counter[str] = Counter()
    defects: list[str] = []
    number, last = first, first + count
    while number < last:
        command = [sys.executable, __file__, "--work", str(number), str(last), "--seed", str(seed)]
        worker = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        lines = worker.stdout.split("\n")
        for line in filter(None, lines):
            case, _, outcome = line.partition(" ")
            number = int(case) + 1
            kind = outcome.split(" ")[0] if outcome.startswith("DEFECT") else outcome or "DEFECT"
            outcomes[kind] += 1
            if kind == "DEFECT":
                defects.append(f"{case}: {outcome or f'the process died ({worker.returncode})'}")
        if not any(lines):
            raise RuntimeError(f"no worker starts (exit status {worker.returncode})")
    return outcomes, defects


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--replay", type=int)
    parser.add_argument("--work", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.seed, *options.work)
        return 0
    if options.replay is not None:
        path, rng = build(options.seed, options.replay, Path(tempfile.mkdtemp()))
        print(path, examine(path, rng))
        return 0
    outcomes, defects = run(options.seed, options.count, options.first)
    print(", ".join(f"{count:,} {kind}" for kind, count in outcomes.most_common()))
    print("\n".join(defects))
    return 1 if defects else 0


if __name__ == "__main__":
    sys.exit(main())
