"""Memory that runs out: the micro-batch is halved, or an error of ours names the phase and keeps the last state."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import aprnb
from aprnb import cli
from aprnb.errors import OutOfMemory, TrainingError
from aprnb.model import build, generation, nf4
from aprnb.tuning import execution, write_results
from aprnb.tuning.planning.saving import SaveRule
from aprnb.tuning.results import merge, merge_check
from aprnb.tuning.training import gates, loop
from aprnb.tuning.training.events import Event, Notice, Saved, StepEvent
from aprnb.tuning.training.saving.state_files import load_state
from aprnb_tests.tiny import identity_of, losses, saver, schedule_of, tiny_examples, tiny_run

CPU_ALLOCATOR = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "144000000 bytes. Error code 12 (Cannot allocate memory)"
)
"""As torch 2.13 raises it under a limit of the address space."""
KINDS: list[Callable[[], BaseException]] = [
    lambda: RuntimeError(CPU_ALLOCATOR),
    lambda: RuntimeError("could not create a primitive"),
    lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    lambda: MemoryError(),
    lambda: torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of"),
]

EVERY_SECOND = SaveRule(2, None)


class SmallMemory:
    """Simulates a device with memory for `limit` tokens of a forward pass."""

    def __init__(self, model: Any, limit: int, kind: Callable[[], BaseException] = KINDS[0]) -> None:
        self.limit, self.largest, self.kind = limit, 0, kind
        model.get_base_model().model.register_forward_hook(self._look, with_kwargs=True)

    def _look(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        tokens = kwargs["input_ids"].numel()
        if tokens > self.limit:
            raise self.kind()
        self.largest = max(self.largest, tokens)


def fails(*_: Any, **__: Any) -> Any:
    raise RuntimeError(CPU_ALLOCATOR)


def past_the_start(events: Iterator[Event]) -> None:
    """Up to the warning about the base's loss, after the first evaluation."""
    while not isinstance(next(events), Notice):
        pass


# ---- in the micro-batches


@pytest.mark.parametrize("kind", KINDS, ids=["cpu", "onednn", "cublas", "python", "accelerator", "cuda"])
def test_the_micro_batch_is_halved_and_the_step_stays_the_same(kind: Callable[[], BaseException]) -> None:
    schedule = schedule_of(tiny_examples(), *3 * [(tuple(range(12)),)])
    expected = losses(list(tiny_run(schedule).events()))
    run = tiny_run(schedule)
    memory = SmallMemory(run.model, 60, kind)
    events = list(run.events())
    assert losses(events) == pytest.approx(expected, rel=1e-5)
    assert memory.largest <= 60
    assert any(isinstance(event, Notice) and "out of memory" in event.text for event in events)


def test_dropout_after_out_of_memory_is_that_of_a_run_that_began_with_smaller_micro_batches() -> None:
    schedule = schedule_of(tiny_examples(), *3 * [(tuple(range(12)),)])
    half = sum(tiny_examples().lengths) // 2
    expected = losses(list(tiny_run(schedule, micro_batch_tokens=half, lora_dropout=0.2, held_out=False).events()))
    run = tiny_run(schedule, lora_dropout=0.2, held_out=False)
    events = run.events()
    past_the_start(events)
    SmallMemory(run.model, half)
    assert losses(list(events)) == expected


def test_a_limit_far_above_the_micro_batch_is_halved_from_its_size() -> None:
    schedule = schedule_of(tiny_examples(), (tuple(range(12)),))
    run = tiny_run(schedule, micro_batch_tokens=8192, held_out=False)
    assert 2 * 60 < sum(tiny_examples().lengths) < 4 * 60
    SmallMemory(run.model, 60, KINDS[0])
    found = [event.text for event in run.events() if isinstance(event, Notice) and "out of memory" in event.text]
    assert len(found) == 2


def test_another_error_is_not_taken_for_a_lack_of_memory() -> None:
    run = tiny_run(held_out=False)
    events = run.events()
    past_the_start(events)
    SmallMemory(run.model, 5, lambda: RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"))
    with pytest.raises(RuntimeError, match="size of tensor a"):
        list(events)


LIMITED = """
import gc, json, resource, sys
import psutil, torch
import aprnb
torch.set_num_threads(1)
rows = [{"instruction": f"Spell {word}.", "response": " ".join(word)} for word in 40 * ("fish", "cow", "hen", "goat")]

def losses(limited):
    def listen(event):
        if not limited or type(event).__name__ != "StepEvent":
            return
        gc.collect()  # what step 1 left would else be freed inside step 2
        used = psutil.Process().memory_info().vms
        limit = used + (16 << 20) if event.step == 1 else resource.RLIM_INFINITY  # of step 2 alone, not of the results
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))

    run = aprnb.finetune(
        sys.argv[1], data=rows, max_steps=2, batch_size=160, micro_batch_tokens=4096, gradient_checkpointing="off",
        method="lora", adapter_only=True, val_split=0, output=sys.argv[2], device="cpu", dtype="float32", force=True,
        listener=listen,
    )
    notices = [text for text in run.history.warnings if "out of memory" in text]
    return [[row["loss"] for row in run.history.steps], notices]

print(json.dumps([losses(False), losses(True)]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space as Linux has them")
def test_a_process_with_little_memory_trains_the_same_numbers(tmp_path: Path, pocket_qwen3: Path) -> None:
    words = [sys.executable, "-c", LIMITED, str(pocket_qwen3), str(tmp_path / "x.apr")]
    # glibc would keep the memory of step 1 for step 2, and reserve addresses for the arenas of other threads
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_ARENA_MAX": "1"}
    told: list[bool] = []
    while not any(told) and len(told) < 5:  # where step 1 left holes in the heap, step 2 may fit into the limit
        done = subprocess.run(words, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        (expected, none), (found, notices) = json.loads(done.stdout.splitlines()[-1])
        assert found == pytest.approx(expected, rel=1e-5)
        assert not none
        told.append(bool(notices))
    assert any(told)


def test_one_row_that_does_not_fit_is_an_error_that_names_the_saved_state(tmp_path: Path) -> None:
    run = tiny_run(held_out=False)
    seen: list[Any] = []
    found = r"one row of \d+ tokens(.|\n)*the state after step 2 is saved(.|\n)*--max-seq-len"
    with pytest.raises(TrainingError, match=found) as caught:
        for event in run.events(save=saver(tmp_path), saving=SaveRule(None, None)):
            seen.append(event)
            if isinstance(event, StepEvent) and event.step == 2:
                SmallMemory(run.model, limit=5)
    assert isinstance(caught.value, OutOfMemory)
    assert isinstance(seen[-1], Saved)
    again = tiny_run(held_out=False)
    state = load_state(tmp_path, identity_of(again.recipe))
    assert state.step == 2
    expected = losses(list(tiny_run(held_out=False).events()))
    assert losses(list(again.events(state=state))) == expected[2:]


def test_the_error_keeps_no_tensor_of_the_failed_pass() -> None:
    run = tiny_run(held_out=False)
    events = run.events()
    past_the_start(events)
    SmallMemory(run.model, limit=5)
    with pytest.raises(OutOfMemory) as caught:
        list(events)
    error: BaseException | None = caught.value
    while error is not None:
        trace = error.__traceback__
        while trace is not None:
            assert "modeling_qwen3" not in trace.tb_frame.f_code.co_filename or not trace.tb_frame.f_locals
            trace = trace.tb_next
        error = error.__context__


# ---- elsewhere


def test_a_failed_optimizer_step_is_named_and_half_a_step_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run(held_out=True, eval_every=2)
    with pytest.raises(OutOfMemory, match=r"out of memory in the optimizer's step 4(.|\n)*after step 2 is saved"):
        for event in run.events(save=saver(tmp_path), saving=EVERY_SECOND):
            if isinstance(event, StepEvent) and event.step == 3:
                monkeypatch.setattr(torch.optim.AdamW, "step", fails)
    assert load_state(tmp_path, identity_of(run.recipe)).step == 2


def test_a_failed_run_lets_go_of_its_gradients_before_it_saves(tmp_path: Path) -> None:
    run = tiny_run(held_out=False)
    held: list[int] = []

    def save(state: Any) -> Path:
        held.append(sum(one.grad is not None for one in run.model.parameters()))
        return tmp_path

    with pytest.raises(TrainingError, match="step 3: loss nan"):
        for event in run.events(save=save, saving=SaveRule(None, None)):
            if isinstance(event, StepEvent) and event.step == 2:
                run.model.get_base_model().model.norm.weight.data.fill_(torch.nan)
    assert held == [0]


@pytest.mark.parametrize(
    ("place", "name", "words"),
    [
        (gates, "frozen_fingerprint", "while the frozen weights were read"),
        (gates, "check_adapter_is_neutral", "while the fresh adapter was compared"),
        (loop, "set_learning_rate", "during training"),
    ],
)
def test_what_comes_before_the_first_step_is_named_and_nothing_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Any, name: str, words: str
) -> None:
    monkeypatch.setattr(place, name, fails)
    with pytest.raises(OutOfMemory, match=rf"out of memory {words}.*144000000 bytes(.|\n)*no state is saved"):
        list(tiny_run().events(save=saver(tmp_path), saving=EVERY_SECOND))
    assert not list(tmp_path.iterdir())


def test_a_save_that_finds_no_memory_keeps_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, save = tiny_run(eval_every=2), saver(tmp_path)

    def later(state: Any) -> Path:
        return fails() if state.step > 2 else save(state)

    with pytest.raises(OutOfMemory, match=r"while the state after step 4 was saved(.|\n)*after step 2 is saved in"):
        list(run.events(save=later, saving=EVERY_SECOND))
    assert load_state(tmp_path, identity_of(run.recipe)).step == 2


ROWS = [{"instruction": "Spell fish.", "response": "f i s h"}, {"instruction": "Spell cow.", "response": "c o w"}]
QUICK: dict[str, Any] = {"data": 3 * ROWS, "val_split": 0, "max_steps": 2, "device": "cpu", "dtype": "float32"}


@pytest.mark.parametrize(
    ("place", "name", "words"),
    [
        (build, "read_tensor", "while .*pocket-qwen3.apr was loaded"),
        (execution, "attach", "before training"),
        (write_results, "save_adapter", "while the results were written"),
        (merge, "write_apr_model", "during the merge"),
        (merge_check, "build_model", "during the merge"),
        (merge_check, "_logits", "during the merge"),
    ],
)
def test_each_part_of_a_run_is_named_and_after_training_nothing_is_lost(
    tmp_path: Path, pocket_qwen3: Path, monkeypatch: pytest.MonkeyPatch, place: Any, name: str, words: str
) -> None:
    def run(**options: Any) -> Any:
        return aprnb.finetune(pocket_qwen3, output=str(tmp_path / "x.apr"), rank=2, **QUICK, **options)

    with monkeypatch.context() as patched:
        patched.setattr(place, name, fails)
        with pytest.raises(OutOfMemory, match=rf"^out of memory {words}") as caught:
            run()
    if "--resume" in str(caught.value):
        assert run(resume=True).status == "finished"
    else:
        assert not (tmp_path / "x.run" / "states").exists()


def test_full_training_is_not_told_to_write_an_adapter(
    tmp_path: Path, pocket_qwen3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "write_apr_model", fails)
    with pytest.raises(OutOfMemory, match="with --resume when more memory is free"):
        aprnb.finetune(pocket_qwen3, output=str(tmp_path / "x.apr"), method="full", **QUICK)


def test_a_lack_of_memory_inside_the_loader_s_quantisation_is_named(
    pocket_qwen3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nf4, "quantize_4bit", fails)  # transformers catches it and raises another error
    with pytest.raises(OutOfMemory, match="144000000 bytes could not be allocated(.|\n)*a machine with more memory"):
        aprnb.load(pocket_qwen3, device="cpu", quantize="nf4")


def test_generation_is_named(pocket_qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = aprnb.load(pocket_qwen3, device="cpu")
    monkeypatch.setattr(generation, "_generate", fails)
    with pytest.raises(OutOfMemory, match="during generation"):
        aprnb.generate(model, tokenizer, "Spell cow.")


def test_the_command_line_calls_no_lack_of_memory_a_bug(
    pocket_qwen3: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("aprnb.inspection.inspect", lambda *_, **__: fails())
    assert cli.main(["inspect", str(pocket_qwen3)]) == 1
    assert capsys.readouterr().err.startswith("OutOfMemory: out of memory in this command: 144000000 bytes")
