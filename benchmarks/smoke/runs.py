"""Whole runs on the device: methods, exactness of full training, merging, peak of memory, a process of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import aprnb
from aprnb.tuning.child import finetune_in_child
from aprnb.tuning.planning.memory_use import process_bytes
from smoke.models import small_file, small_rows
from smoke.report import Smoke

Listener = Callable[[Any], None]


def tune(smoke: Smoke, name: str, base: Path | None = None, **options: Any) -> Any:
    """`aprnb.finetune` of the small model on the device; unless asked for, only the adapter is written."""
    given = {
        "data": small_rows(16 if smoke.is_tiny else 48), "batch_size": 4 if smoke.is_tiny else 8, "max_seq_len": 256,
        "val_split": 0.1, "max_steps": 4 if smoke.is_tiny else 6, "force": True, "device": str(smoke.device),
        "output": str(smoke.work / f"{name}.apr"), "learning_rate": 1e-3,
    }  # fmt: skip
    if options.get("method") != "full":
        given |= {"rank": 8, "adapter_only": True}
    return aprnb.finetune(base or small_file(smoke), **{**given, **options})


def losses_of(run: Any) -> list[float]:
    return [row["loss"] for row in run.history.steps]


def methods(smoke: Smoke) -> None:
    """Each method learns, in float32 with the losses of the CPU."""
    grid = [(method, dtype) for method in ("lora", "qlora", "full") for dtype in ("float32", "bfloat16")]
    for method, dtype in smoke.while_time("methods", grid):
        if dtype == "bfloat16" and not smoke.on_gpu:
            continue
        with smoke.case(f"methods.{method}.{dtype}") as facts:
            options = {"method": method, "dtype": dtype, "learning_rate": 1e-4 if method == "full" else 1e-3}
            run = tune(smoke, f"{method}-{dtype}", **options)
            found, document = losses_of(run), run.to_json()
            facts |= {"losses": found, "notices": run.history.warnings, "tokens_per_s": document["tokens_per_s"]}
            facts |= {"peak_MiB": run.peak_memory_bytes >> 20, "planned_MiB": run.plan.memory.total >> 20}
            facts.require(finite=all(map(math.isfinite, found)), learns=found[-1] < found[0])
            run.release()
            if smoke.on_gpu and dtype == "float32":
                settled = run.plan.recipe.micro_batch_tokens
                other = tune(smoke, "on-cpu", **options, device="cpu", micro_batch_tokens=settled)
                off = max(abs(one - two) for one, two in zip(found, losses_of(other), strict=True))
                facts["off_the_cpu"] = off
                facts.require(losses_of_the_cpu=off < (5e-3 if method == "qlora" else 1e-3))


def full_is_exact(smoke: Smoke) -> None:
    """Computing in bfloat16 rounds no weight of a float base: a step at a rate of 1e-7 moves none by more than that."""
    rate = 1e-7
    for kind, rounding in (("F32", 2**-24), ("F16", 2**-11)):
        with smoke.case(f"full_is_exact.{kind}") as facts:
            base = small_file(smoke, kind)
            options = {"method": "full", "dtype": "bfloat16", "max_steps": 1, "warmup_ratio": 0, "val_split": 0}
            run = tune(smoke, f"exact-{kind}", base, **options, learning_rate=rate)
            run.release()
            with aprnb.open(base) as before, aprnb.open(run.output) as after:
                names = [name for name in before.tensors if name.endswith("proj.weight")]
                moved = [np.abs(after[name] - before[name]) for name in names]
                most = max(float(np.abs(before[name]).max()) for name in names)
            share = float(np.mean([np.mean(part > 0) for part in moved]))
            limit = 1.01 * rate + rounding * most * 2  # Adam's first step is the rate; then one rounding to the file
            facts |= {"largest_change": max(float(part.max()) for part in moved), "limit": limit, "changed": share}
            # f16 numbers of 0.02 lie 1.5e-5 apart: a change of 1e-7 crosses the middle between two for one in 150.
            facts.require(within_the_rate=facts["largest_change"] <= limit, few=kind == "F32" or share < 0.05)


def merging(smoke: Smoke) -> None:
    """A run's merged model passes its check, which is computed on the device, and answers."""
    for kind in ("F32", "Q4_K"):
        with smoke.case(f"merging.{kind}") as facts:
            run = tune(smoke, f"merged-{kind}", small_file(smoke, kind), method="qlora", dtype=smoke.fast_dtype,
                       adapter_only=False)  # fmt: skip
            facts |= {"merge_check": run.to_json()["merge_check"], "text": run.generate("one", max_new_tokens=8).text}
            facts.require(written=run.output is not None and run.output.exists())
            run.release()


def peak_memory(smoke: Smoke) -> None:
    """The reported peak is that of the run, not of what the process had before."""
    with smoke.case("peak_memory") as facts:
        size = 1 << (29 if smoke.is_tiny else 31)
        earlier = torch.ones(size, dtype=torch.uint8, device=smoke.device)
        held = torch.cuda.memory_reserved(smoke.device) if smoke.on_gpu else process_bytes()
        del earlier
        run = tune(smoke, "second", method="lora", dtype=smoke.fast_dtype, max_steps=2)
        facts |= {"held_before_MiB": held >> 20, "reported_MiB": run.peak_memory_bytes >> 20}
        whole = any("since it started" in text for text in run.history.warnings)  # the system has no other peak
        facts.require(of_the_run=whole or 0 < run.peak_memory_bytes < held)
        run.release()


def own_process(smoke: Smoke) -> None:
    """A run in a process of its own, as a notebook starts it after it has used the device."""
    with smoke.case("own_process") as facts:
        torch.ones(8, device=smoke.device).sum().item()
        given = {"data": small_rows(8), "max_steps": 2, "rank": 2, "val_split": 0, "adapter_only": True, "force": True,
                 "device": str(smoke.device), "output": str(smoke.work / "child.apr")}  # fmt: skip
        run = finetune_in_child(str(small_file(smoke)), given, [].append)
        facts["losses"] = losses_of(run)
        facts.require(finished=run.status == "finished", trained=len(losses_of(run)) == 2)


CHECKS = {"methods": methods, "full_is_exact": full_is_exact, "merging": merging, "peak_memory": peak_memory,
          "own_process": own_process}  # fmt: skip
