"""Time to open a checkpoint, resolve its architecture and check its contract, compared with `apr inspect --json`.

python benchmarks/open_vs_apr.py [FILE ...]     the shipped checkpoint and a sparse 8B-shaped file unless given
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from record import HERE, POCKET, apr_binary, machine, save, spread

ROUNDS = 9
METHOD = (
    f"Median (fastest to slowest) of {ROUNDS} rounds in turn. Process: `aprnb inspect --json` from the start of "
    "Python. In process: open, architecture and contract. `apr inspect` reads header and metadata and checks no "
    "contract. Each round asserts the number of tensors, ours also a green contract."
)


def seconds(work: Callable[[], int], tensors: int) -> float:
    started = time.perf_counter()
    found = work()
    taken = time.perf_counter() - started
    assert found == tensors, f"{found} tensors seen, {tensors} are in the file"
    return taken


def by_apr(apr: str, path: Path) -> int:
    run = subprocess.run([apr, "inspect", str(path), "--json", "--offline"], capture_output=True, check=True)
    return int(json.loads(run.stdout)["tensor_count"])


def by_process(path: Path) -> int:
    run = subprocess.run([sys.executable, "-m", "aprnb", "inspect", str(path), "--json"], capture_output=True)
    document = json.loads(run.stdout)
    assert document["contract"]["ok"], document["contract"]
    return len(document["tensors"])


def in_process(path: Path) -> int:
    import aprnb

    checkpoint = aprnb.open(path)
    assert aprnb.check(checkpoint).ok
    return len(checkpoint.tensors)


def measure(path: Path, apr: str) -> dict[str, dict[str, float]]:
    tensors = in_process(path)
    found: dict[str, list[float]] = {"apr": [], "process": [], "in_process": []}
    for _ in range(ROUNDS):
        found["apr"].append(seconds(lambda: by_apr(apr, path), tensors))
        found["process"].append(seconds(lambda: by_process(path), tensors))
        found["in_process"].append(seconds(lambda: in_process(path), tensors))
    return {name: spread(values) for name, values in found.items()}


def main() -> None:
    apr = apr_binary()
    with tempfile.TemporaryDirectory() as folder:
        given = [Path(name) for name in sys.argv[1:]]
        results = {path.name: measure(path, apr) for path in given or [POCKET, eight_billion(Path(folder))]}
    document = {
        "question": "Open a checkpoint and check its contract, compared with apr inspect",
        "method": METHOD,
        "machine": machine(),
        "seconds": results,
    }
    header = ["file", "apr inspect", "aprnb inspect", "ratio", "aprnb in process", "ratio"]
    save("open_vs_apr", document, header, [row(name, found) for name, found in results.items()])


def row(name: str, found: dict[str, dict[str, float]]) -> list[str]:
    def cell(key: str) -> str:
        return "{median:.4f} s ({min:.4f}–{max:.4f})".format(**found[key])

    def ratio(key: str) -> str:
        return f"{found[key]['median'] / found['apr']['median']:.2f}"

    return [name, cell("apr"), cell("process"), ratio("process"), cell("in_process"), ratio("in_process")]


def eight_billion(folder: Path) -> Path:
    """Qwen3-8B's header, metadata and index over a hole, from the tests that own it."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from aprnb_tests import story

    return story.write(folder / "qwen3-8b-shaped.apr")


if __name__ == "__main__":
    main()
