"""One JSON line per check: `{"check", "status", "at_s", …}`, and where and for how long the checks run.

status: ok, FAIL (a promise is broken; `broken` names what did not hold), error (an exception), info (numbers), skip
"""

from __future__ import annotations

import gc
import json
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO, TypeVar

import torch

T = TypeVar("T")


class Facts(dict[str, Any]):
    """What a check found; without `require` it is only information."""

    status = "info"

    def require(self, **conditions: bool) -> None:
        """The check holds where every condition does; those that do not are named."""
        broken = [*self.get("broken", []), *(name for name, holds in conditions.items() if not holds)]
        self.status = "FAIL" if broken else "ok"
        if broken:
            self["broken"] = broken


@dataclass
class Smoke:
    """The device, a folder to work in, the seconds that are left, and what was reported so far."""

    device: torch.device
    is_tiny: bool
    work: Path
    budget_s: float
    out: TextIO | None = None
    began: float = field(default_factory=time.perf_counter)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def fast_dtype(self) -> str:
        """bfloat16 is emulated on most CPUs."""
        return "bfloat16" if self.on_gpu else "float32"

    @property
    def seconds_left(self) -> float:
        return self.budget_s - (time.perf_counter() - self.began)

    def say(self, check: str, status: str, **facts: Any) -> None:
        at_s = round(time.perf_counter() - self.began, 1)
        line = json.dumps({"check": check, "status": status, "at_s": at_s, **facts}, default=str)
        self.counts[status] = self.counts.get(status, 0) + 1
        print(line, flush=True)
        if self.out:
            self.out.write(line + "\n")
            self.out.flush()

    @contextmanager
    def case(self, name: str) -> Iterator[Facts]:
        """Reports what the block put into its facts, or its exception; the next check runs in either case."""
        facts, began = Facts(), time.perf_counter()
        try:
            yield facts
        except Exception as error:
            facts.status = "error"
            facts |= {"error": f"{type(error).__name__}: {str(error)[:400]}"}
            facts |= {"where": traceback.format_exc().splitlines()[-4:]}
        self.clean()
        self.say(name, facts.status, seconds=round(time.perf_counter() - began, 2), **facts)

    def while_time(self, name: str, cases: Iterable[T]) -> Iterator[T]:
        """`cases`, until the time is used up."""
        for case in cases:
            if self.seconds_left < 0:
                self.say(f"{name}.{case}", "skip", reason="no time left")
            else:
                yield case

    def sync(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def clean(self) -> None:
        """Frees what nothing uses, and begins a new peak; a CPU needs neither."""
        if self.on_gpu:
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def median_s(self, work: Callable[[], object], rounds: int = 3) -> float:
        """The median of `rounds` after one that does not count."""
        work()
        found = []
        for _ in range(rounds):
            self.sync()
            began = time.perf_counter()
            work()
            self.sync()
            found.append(time.perf_counter() - began)
        return sorted(found)[rounds // 2]

    def memory(self) -> dict[str, float]:
        """GiB of the GPU: torch's now and at its peak, and of all programs together."""
        if not self.on_gpu:
            return {}
        free, total = torch.cuda.mem_get_info(self.device)
        found = {
            "allocated": torch.cuda.memory_allocated(self.device),
            "peak_allocated": torch.cuda.max_memory_allocated(self.device),
            "reserved": torch.cuda.memory_reserved(self.device),
            "device_used": total - free,
        }
        return {f"{name}_GiB": round(size / 2**30, 3) for name, size in found.items()}
