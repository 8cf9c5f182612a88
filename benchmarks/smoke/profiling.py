"""Where a step spends the time of the GPU, and where the CPU waits for it."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from smoke.report import Smoke

KINDS = {
    "attention": ("fmha", "flash", "cudnn", "sdpa", "attention"),
    "matrix products": ("gemm", "nvjet", "cutlass", "cublas", "wgmma", "addmm", "::mm", "bmm"),
    "NF4": ("dequant", "4bit"),
    "softmax": ("softmax",),
    "elementwise": ("elementwise", "reduce", "copy", "cat", "fill"),
}


def profiled(smoke: Smoke, work: Callable[[], object]) -> dict[str, Any]:
    """The share of each kind of kernel in one more `work()`, and the lines that synchronised."""
    return {**(synchronisations(work) if smoke.on_gpu else {}), **kernels(smoke, work)}


def synchronisations(work: Callable[[], object]) -> dict[str, Any]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [one for one in seen if "synchroniz" in str(one.message).lower()]
    places = Counter(f"{Path(one.filename).parent.name}/{Path(one.filename).name}:{one.lineno}" for one in waits)
    return {"synchronisations": len(waits), "synchronised_at": dict(places.most_common(8))}


def kernels(smoke: Smoke, work: Callable[[], object]) -> dict[str, Any]:
    """Seconds of the device by kind of kernel, with the longest kernels by name; `smoke.device` may be a CPU."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if smoke.on_gpu else [])]
    with profile(activities=activities) as profiler:
        began = time.perf_counter()
        work()
        smoke.sync()
        wall_s = time.perf_counter() - began
    field = "self_device_time_total" if smoke.on_gpu else "self_cpu_time_total"
    rows = [
        (row.key, getattr(row, field) / 1e6, row.count) for row in profiler.key_averages() if _is_kernel(smoke, row)
    ]
    rows.sort(key=lambda row: -row[1])
    busy_s = sum(seconds for _, seconds, _ in rows)
    by_kind: Counter[str] = Counter()
    for name, seconds, _ in rows:
        by_kind[kind_of(name)] += seconds / max(busy_s, 1e-9)
    return {
        "busy_s": round(busy_s, 3), "wall_s": round(wall_s, 3), "kernels": sum(count for _, _, count in rows),
        "share": {kind: round(share, 3) for kind, share in by_kind.most_common()},
        "longest": [(name[:60], round(1000 * seconds, 1), count) for name, seconds, count in rows[:8]],
    }  # fmt: skip


def _is_kernel(smoke: Smoke, row: Any) -> bool:
    return not smoke.on_gpu or row.device_type.name == "CUDA"


def kind_of(name: str) -> str:
    found = (kind for kind, words in KINDS.items() if any(word in name.lower() for word in words))
    return next(found, "other")
