"""What ends a run early on a GPU: interrupts, another device at resume, memory that runs out."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file

from aprnb.errors import OutOfMemory, UsageProblem
from aprnb.tuning.planning import settle
from aprnb.tuning.training import batches
from aprnb.tuning.training.events import StepEvent
from smoke.report import Smoke
from smoke.runs import losses_of, tune

GOES_ON = {"force": False, "resume": True}


def interrupt_after(step: int) -> Callable[[Any], None]:
    def listen(event: Any) -> None:
        if isinstance(event, StepEvent) and event.step == step:
            signal.raise_signal(signal.SIGINT)

    return listen


def resume(smoke: Smoke) -> None:
    """A resumed run ends where an uninterrupted one does, as nearly as two uninterrupted ones do."""
    optimizers = ("adamw", "adamw8bit", "paged_adamw8bit") if smoke.on_gpu else ("adamw",)
    grid = [(optimizer, method) for optimizer in optimizers for method in ("lora", "qlora")]
    grid = grid[:1] if smoke.is_tiny else grid
    for optimizer, method in smoke.while_time("resume", grid):
        with smoke.case(f"resume.{optimizer}.{method}") as facts:
            options = {"method": method, "optimizer": optimizer, "eval_every": 2, "lora_dropout": 0.1,
                       "dtype": "float32" if method == "lora" else smoke.fast_dtype,
                       "rank": 8 if optimizer == "adamw" else 64}  # fmt: skip
            whole, again = (tune(smoke, name, **options) for name in ("whole", "again"))
            part = tune(smoke, "part", **options, listener=interrupt_after(3))
            facts.require(interrupted=part.status == "interrupted")
            rest = tune(smoke, "part", **{**options, **GOES_ON})
            weights = [load_file(run.adapter / "adapter_model.safetensors") for run in (whole, again, rest)]
            noise, off = (_difference(weights[0], other) for other in weights[1:])
            facts |= {"off": off, "two_whole_runs_off": noise, "losses": losses_of(rest), "whole": losses_of(whole)}
            facts.require(finished=rest.status == "finished", equal=off <= max(1e-6, 10 * noise))
            facts.require(bit_equal_on_a_cpu=smoke.on_gpu or off == 0)


def _difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[name].float() - other[name].float()).abs().max()) for name in one)


def resume_with_less_memory(smoke: Smoke) -> None:
    """What free memory decided before the interrupt is not decided again at resume."""
    with smoke.case("resume_with_less_memory") as facts:
        first = tune(smoke, "less", listener=interrupt_after(2))
        facts.require(interrupted=first.status == "interrupted")
        with patch.object(settle, "_USABLE", 1e-9):
            second = tune(smoke, "less", **GOES_ON)
        methods = [run.plan.to_json()["recipe"]["method"] for run in (first, second)]
        facts["methods"] = methods
        facts.require(same_method=methods == ["lora", "lora"], finished=second.status == "finished")


def resume_on_another_device(smoke: Smoke) -> None:
    """A state of another device is resumed, or rejected by an error that names the device."""
    if not smoke.on_gpu:
        return smoke.say("resume_on_another_device", "skip", reason="needs a GPU and a CPU")
    for first, second in (("cpu", str(smoke.device)), (str(smoke.device), "cpu")):
        with smoke.case(f"resume_on_another_device.{first}") as facts:
            options = {"method": "lora", "dtype": "float32", "micro_batch_tokens": 512, "optimizer": "adamw"}
            tune(smoke, "cross", **options, device=first, listener=interrupt_after(2))
            try:
                facts["losses"] = losses_of(tune(smoke, "cross", **{**options, **GOES_ON}, device=second))
                facts.require(finite=True)
            except UsageProblem as error:
                facts["error"] = str(error)
                facts.require(names_the_device="device" in str(error))
    return None


def out_of_memory(smoke: Smoke) -> None:
    """Out of memory in a micro-batch, it is halved and the step stays the same."""
    options = {"method": "lora", "dtype": smoke.fast_dtype, "batch_size": 12, "micro_batch_tokens": 4096,
               "max_steps": 3, "val_split": 0, "gradient_checkpointing": "off"}  # fmt: skip
    with smoke.case("out_of_memory") as facts:
        whole = tune(smoke, "roomy", **options)
        whole.release()
        smoke.clean()
        with _little_memory(smoke), patch.object(batches, "answer_loss", _hungry(batches.answer_loss)):
            tight = tune(smoke, "tight", **options)
        off = max(abs(one - two) for one, two in zip(losses_of(whole), losses_of(tight), strict=True))
        facts |= {"off": off, "notices": tight.history.warnings, **smoke.memory()}
        facts.require(halved=any("out of memory" in text for text in tight.history.warnings))
        facts.require(same_losses=off < (0.02 if smoke.on_gpu else 1e-4))


def _hungry(loss: Callable[..., Any]) -> Callable[..., Any]:
    """The loss with a MiB of ballast for each token; a CPU has no limit, so there it fails beyond 400 tokens."""

    def with_ballast(model: Any, ids: torch.Tensor, *rest: Any) -> Any:
        if ids.device.type == "cpu" and len(ids) > 400:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        ballast = torch.empty((len(ids) if ids.is_cuda else 1) << 20, dtype=torch.uint8, device=ids.device)
        found = loss(model, ids, *rest)
        del ballast
        return found

    return with_ballast


def out_of_memory_elsewhere(smoke: Smoke) -> None:
    """Where nothing can be halved, the error is aprnb's and names the phase."""
    if not smoke.on_gpu:
        return smoke.say("out_of_memory_elsewhere", "skip", reason="needs the limit of a GPU's allocator")
    for mib in (8, 60, 120):
        with smoke.case(f"out_of_memory_elsewhere.{mib}_MiB") as facts, _little_memory(smoke, mib << 20):
            try:
                tune(smoke, "none", method="full", dtype="float32")
                facts["note"] = "it was enough"
            except OutOfMemory as error:
                facts["error"] = str(error)
                facts.require(names_the_phase=True)
    return None


def _little_memory(smoke: Smoke, beyond_bytes: int = 1400 << 20) -> AbstractContextManager[None]:
    """At most `beyond_bytes` more than torch has now, on a GPU."""
    return _limited(smoke, beyond_bytes) if smoke.on_gpu else nullcontext()


@contextmanager
def _limited(smoke: Smoke, beyond_bytes: int) -> Iterator[None]:
    total = torch.cuda.get_device_properties(smoke.device).total_memory
    limit = min(1.0, (torch.cuda.memory_reserved(smoke.device) + beyond_bytes) / total)
    torch.cuda.set_per_process_memory_fraction(limit, smoke.device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, smoke.device)


CHECKS = {"resume": resume, "resume_with_less_memory": resume_with_less_memory,
          "resume_on_another_device": resume_on_another_device, "out_of_memory": out_of_memory,
          "out_of_memory_elsewhere": out_of_memory_elsewhere}  # fmt: skip
