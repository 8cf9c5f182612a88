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
import signal
import struct
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from math import prod
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

from mutations import entry_places, mutated

import aprnb
from aprnb.errors import AprnbError
from aprnb.inspection import tensor_statistics

SECONDS, MEMORY_BYTES = 10, 3 << 30
SLACK_BYTES = 64 << 20
ELEMENT_BYTES = {0: 4, 1: 2, 3: 8, 4: 4, 5: 8, 6: 1, 7: 1, 30: 2}
BLOCKS = {2: (32, 18), 8: (32, 18), 128: (32, 18), 12: (256, 144), 14: (256, 210), 13: (256, 176)}


def bases() -> list[Path]:
    """Real files of each format; more where APRNB_FIXTURES names a folder."""
    found = [ROOT / "notebooks" / "pocket-qwen3.apr", *sorted((ROOT / "tests" / "data" / "real").glob("*.apr"))]
    found += sorted((ROOT / "tests" / "data" / "foreign").glob("*.apr"))
    more = os.environ.get("APRNB_FIXTURES")
    if more:
        found += sorted(Path(more).glob("gguf/*.gguf")) + sorted(Path(more).glob("sources/*/model.safetensors"))
    return [path for path in found if path.stat().st_size < 2_000_000]


class WrongVerdict(AssertionError):
    """A green contract over bytes that hold something else."""


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


def hold_to_bytes(checkpoint: aprnb.Checkpoint, data: bytes, green: bool) -> None:
    """Every entry against an index read here, by other code; raises WrongVerdict."""
    if checkpoint.format != "apr" or data[:1] == b"{":
        return
    start = struct.unpack_from("<Q", data, 32)[0]
    places = entry_places(data)
    if green and len(places) != len(checkpoint.tensors):
        raise WrongVerdict(f"{len(places)} entries in the bytes, {len(checkpoint.tensors)} tensors")
    for at, name_end, dims in places:
        name = data[at + 2 : name_end].decode("utf-8", "replace")
        entry = checkpoint.tensors.get(name)
        if entry is None:
            continue
        *shape, offset, size = struct.unpack_from(f"<{dims + 2}Q", data, name_end + 2)
        if (tuple(shape), offset, size) != (entry.shape, entry.offset, entry.size_bytes):
            raise WrongVerdict(f"{name}: {shape} at {offset}, {size} bytes; read as {entry}")
        if size and checkpoint.raw(name) != data[start + offset : start + offset + size]:
            raise WrongVerdict(f"{name}: other bytes than those at {start + offset}")
        if size and size not in sizes(data[name_end], tuple(shape)):
            raise WrongVerdict(f"{name}: code {data[name_end]} and {shape} do not take {size} bytes")


def sizes(code: int, shape: tuple[int, ...]) -> set[int]:
    """Every size that a code has had for a shape, from the format's tables (code 0 also labelled other types)."""
    count = prod(shape)
    found = {count * ELEMENT_BYTES[code]} if code in ELEMENT_BYTES else set()
    others = {0: ((1, 2), (256, 84), (256, 110)), 2: ((1, 2),), 3: ((32, 20),), 6: ((32, 22),), 7: ((32, 24),),
              8: ((32, 34), (256, 144), (256, 176)), 9: ((32, 36), (256, 210)), 10: ((32, 34), (256, 84)),
              11: ((256, 110),), 13: ((256, 144),)}.get(code, ())  # fmt: skip
    if code in (9, 129):
        found.add(4 + count)
    for elements, taken in (*((BLOCKS[code],) if code in BLOCKS else ()), *others):
        found.add(-(-count // elements) * taken)
        if len(shape) == 2:
            found.add(shape[0] * -(-shape[1] // elements) * taken)
    return found


def build(seed: int, number: int, folder: Path) -> tuple[Path, random.Random]:
    rng = random.Random(f"{seed}/{number}")
    base = rng.choice(bases())
    path = folder / f"case{base.suffix}"
    path.write_bytes(mutated(rng, base.read_bytes()))
    return path, rng


def work(seed: int, first: int, last: int) -> None:
    """Runs cases and tells of each on standard output: its number before, its outcome behind."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.signal(signal.SIGALRM, _hang)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "warm.apr").write_bytes(bases()[0].read_bytes())
        for number in range(10):  # imports and caches are no case's memory
            examine(folder / "warm.apr", random.Random(number))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(first, last):
            print(f"{number} ", end="", flush=True)
            path, rng = build(seed, number, folder)
            signal.alarm(SECONDS)
            try:
                outcome = examine(path, rng)
            except BaseException as error:
                outcome = "DEFECT " + "".join(traceback.format_exception(error)).replace("\n", " | ")[-1500:]
            signal.alarm(0)
            now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            if (now - before) * 1024 > SLACK_BYTES + 2 * path.stat().st_size and outcome[:6] != "DEFECT":
                outcome = (
                    f"DEFECT memory grew by {(now - before) // 1024} MiB on a file of {path.stat().st_size:,} bytes"
                )
                before = now
            print(outcome, flush=True)


def _hang(*_: object) -> None:
    raise TimeoutError(f"longer than {SECONDS} s")


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
