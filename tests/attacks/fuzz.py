"""The fuzzer: mutated real files through everything that reads them.

    python tests/attacks/fuzz.py --count 2000 --seed 0        (make fuzz COUNT=2000 SEED=0)
    python tests/attacks/fuzz.py --targets states,adapters    some targets only
    python tests/attacks/fuzz.py --replay 1234 --seed 0       one case again, its files kept

A case is a number: with the seed it gives target, base and mutations. Properties: no exception outside `aprnb.errors`,
no crash, no hang, no memory beyond 64 MB and twice the files, no file outside the case's folder read into a result or
changed, and no wrong verdict: what is accepted is what an independent reader of the same bytes finds. Cases run in
worker processes; one that dies is named and replaced.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from itertools import count, islice
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

from fuzz_case import Case, Target

from aprnb.errors import AprnbError
from aprnb_tests.memory import forget_peak, peak

PROCESSOR_SECONDS, SECONDS, MEMORY_BYTES = 10, 120, 3 << 30
SLACK_BYTES, MOST_DEATHS = 64 << 20, 5
TARGETS = {
    "checkpoints": ("fuzz_checkpoints.Checkpoints", 8),
    "sidecars": ("fuzz_sidecars.Sidecars", 24),
    "tokenizers": ("fuzz_tokenizers.Tokenizers", 14),
    "states": ("fuzz_states.States", 16),
    "adapters": ("fuzz_adapters.Adapters", 16),
    "recipes": ("fuzz_recipes.Recipes", 12),
    "rows": ("fuzz_rows.Rows", 10),
}
"""Name → class, and how many of 100 cases go to it."""
_SHARES = [share for _, share in TARGETS.values()]


def rng_and_target(seed: int, number: int) -> tuple[random.Random, str]:
    """The case's random numbers, from which everything about it follows, and its target."""
    rng = random.Random(f"{seed}/{number}")
    return rng, rng.choices(list(TARGETS), _SHARES)[0]


def numbers(seed: int, first: int, targets: Collection[str]) -> Iterator[int]:
    """The numbers of the cases of `targets`, from `first` on, without end."""
    return (number for number in count(first) if rng_and_target(seed, number)[1] in targets)


class Workplace:
    """Targets with their bases, each made on first use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, tuple[Target, Case]] = {}

    def of(self, name: str) -> tuple[Target, Case]:
        if name not in self._made:
            module, _, kind = TARGETS[name][0].partition(".")
            root = self._folder / name
            root.mkdir()
            target = getattr(import_module(module), kind)(root)
            self._made[name] = target, Case.next_to(root, target.planted)
        return self._made[name]

    def run(self, seed: int, number: int) -> str:
        """The outcome of a case; what may not happen is raised."""
        rng, name = rng_and_target(seed, number)
        target, case = self.of(name)
        case.clear()
        target.build(rng, case)
        case.seal()
        try:
            outcome = target.examine(rng, case)
        except AprnbError as error:
            case.hold_secret(str(error))
            case.hold_files()
            outcome = "rejected"
        case.hold_outside()
        return outcome


def work(seed: int, first: int, cases: int, warming: int, targets: Collection[str]) -> None:
    """Runs cases and reports each on standard output: number and target before, milliseconds and outcome after."""
    signal.signal(signal.SIGALRM, _hang)
    signal.signal(signal.SIGPROF, _hang)
    with tempfile.TemporaryDirectory(dir=_fast_folder()) as name:
        workplace = Workplace(Path(name))
        _warm(workplace, -1 - warming, targets)
        limit = _mapped_bytes() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for number in islice(numbers(seed, first, targets), cases):
            print(f"{number} {rng_and_target(seed, number)[1]}", end=" ", flush=True)
            began = _processor_s()
            outcome = _measured(workplace, seed, number)
            print(f"{1000 * (_processor_s() - began):.2f} {outcome}", flush=True)


def _warm(workplace: Workplace, seed: int, targets: Collection[str]) -> None:
    """Runs some cases of each target first, so that imports and caches do not count as memory of a case."""
    for target in targets:
        workplace.of(target)
        for number in islice(numbers(seed, 0, (target,)), 10):
            _measured(workplace, seed, number)


def _measured(workplace: Workplace, seed: int, number: int) -> str:
    """The outcome of a case under the clocks, or `DEFECT` with what happened."""
    _, case = workplace.of(rng_and_target(seed, number)[1])
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)  # ends native code, which hears no signal
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 2 * PROCESSOR_SECONDS, hard))
    signal.alarm(SECONDS)
    signal.setitimer(signal.ITIMER_PROF, PROCESSOR_SECONDS)
    before = forget_peak()
    try:
        outcome = workplace.run(seed, number)
    except BaseException as error:
        outcome = _defect(error)
    signal.alarm(0)
    signal.setitimer(signal.ITIMER_PROF, 0)
    grown = peak() - before
    if grown > SLACK_BYTES + 2 * case.size_bytes and outcome[:6] != "DEFECT":
        return f"DEFECT memory grew by {grown >> 20} MiB on files of {case.size_bytes:,} bytes"
    return outcome


def _processor_s() -> float:
    """Processor time of this process and of its children that ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _defect(error: BaseException) -> str:
    """The error in one line, with the calls that led to it, the innermost first."""
    calls = traceback.extract_tb(error.__traceback__)[:0:-1]
    places = " < ".join(f"{Path(call.filename).name}:{call.lineno} {call.name}" for call in calls[:12])
    return f"DEFECT {type(error).__name__}: {str(error)[:500]!r} in {places}"


def _fast_folder() -> str | None:
    """A folder in memory if there is one: most of a case's time would be that of the disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _mapped_bytes() -> int:
    """Address space that this process uses; 0 where the system does not say."""
    found = Path("/proc/self/statm")
    return int(found.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") if found.exists() else 0


def _hang(*_: object) -> None:
    raise TimeoutError(f"longer than {PROCESSOR_SECONDS} s of processor time, or {SECONDS} s")


@dataclass
class Findings:
    """Outcomes with how often each came, and processor time, by target; and the defects with their case's number."""

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    milliseconds: Counter[str] = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)

    def add(self, line: str, end: str) -> int:
        """Takes a line of a worker, and how the worker ended; returns the case's number."""
        number, target, *rest = line.split(" ", 3)
        outcome = rest[1] if len(rest) == 2 else f"DEFECT the process died: {end}"
        self.milliseconds[target] += float(rest[0]) if len(rest) == 2 else 0
        kind = "DEFECT" if outcome.startswith("DEFECT") else outcome
        self.outcomes.setdefault(target, Counter())[kind] += 1
        if kind == "DEFECT":
            self.defects.append(f"{number} ({target}): {outcome}")
        return int(number)

    def __str__(self) -> str:
        lines = []
        for target, kinds in sorted(self.outcomes.items()):
            cases = kinds.total()
            counts = ", ".join(f"{found:,} {kind}" for kind, found in kinds.most_common())
            lines.append(f"{target}: {cases:,} cases, {self.milliseconds[target] / cases:.1f} ms each: {counts}")
        return "\n".join([*lines, *self.defects])


def run(seed: int, cases: int, first: int, targets: Collection[str]) -> Findings:
    """Runs `cases` cases of `targets`, from number `first` on, in one worker after the other."""
    found, left, deaths = Findings(), cases, 0
    while left > 0:
        where = ["--work", *map(str, (first, left, deaths)), "--seed", str(seed), "--targets", ",".join(targets)]
        worker = subprocess.run([sys.executable, __file__, *where], capture_output=True, text=True)
        lines, words = [line for line in worker.stdout.split("\n") if line], worker.stderr[-1500:]
        deaths = deaths + 1 if len(lines) < 2 and worker.returncode else 0
        if deaths > MOST_DEATHS:
            raise RuntimeError(f"no worker runs (exit status {worker.returncode}): {' '.join(where)}\n{words}")
        for line in lines:
            first = found.add(line, f"{worker.returncode} {words}".replace("\n", " | ")) + 1
        left -= len(lines)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", default=",".join(TARGETS), help="some of the targets, with commas between them")
    parser.add_argument("--replay", type=int)
    parser.add_argument("--work", type=int, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    targets = options.targets.split(",")
    if not set(targets) <= TARGETS.keys():
        parser.error(f"--targets {options.targets}: choose from {', '.join(TARGETS)}")
    if options.work:
        work(options.seed, *options.work, targets)
        return 0
    if options.replay is not None:
        folder = Path(tempfile.mkdtemp(dir=_fast_folder()))
        print(folder / rng_and_target(options.seed, options.replay)[1] / "case", flush=True)
        print(Workplace(folder).run(options.seed, options.replay))
        return 0
    found = run(options.seed, options.count, options.first, targets)
    print(found)
    return 1 if found.defects else 0


if __name__ == "__main__":
    sys.exit(main())
