"""Where it ran, how often, and the files that a benchmark leaves."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
POCKET = HERE.parent / "notebooks" / "pocket-qwen3.apr"


def apr_binary() -> str:
    found = os.environ.get("APR_BIN") or shutil.which("apr")
    if not found:
        sys.exit("the apr tool is not here: set APR_BIN or put apr on PATH")
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def in_turn(work: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each piece of work, all of them once per round, so that a busy minute hits every one."""
    found: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, do in work.items():
            began = time.perf_counter()
            do()
            found[name].append(time.perf_counter() - began)
    return found


def ratios(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """The spread of the quotients round by round."""
    return spread([a / b for a, b in zip(above, below, strict=True)])


def medians(rounds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    return {name: spread(values) for name, values in rounds.items()}


def machine(*packages: str) -> dict[str, Any]:
    versions = {name: metadata.version(name) for name in ("aprnb", "numpy", *packages)}
    return {"cores": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version(), **versions}


def save(name: str, document: dict[str, Any], header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Writes results/NAME.json and results/NAME.md, and prints the table."""
    table = "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))
    where = ", ".join(f"{key} {value}" for key, value in document["machine"].items())
    text = f"# {document['question']}\n\n{table}\n\n{document['method']}\n\n{where}\n"
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)
