"""The peak that is reported is one: it includes what was freed again, and nothing from before the run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import aprnb
from aprnb.tuning.planning import memory_use
from aprnb.tuning.planning.memory_use import begin_peak, peak_bytes, process_bytes
from aprnb.tuning.training import events, gates
from aprnb_tests.memory import forget_peak, peak

CPU = torch.device("cpu")
BLOCK = 256 << 20
needs_reset = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system cannot reset peaks")


def touch() -> None:
    """Takes a block of memory and gives it back."""
    np.ones(BLOCK, np.uint8)


@needs_reset
def test_the_peak_holds_what_was_freed_and_begins_anew() -> None:
    touch()
    assert begin_peak(CPU)
    before = peak_bytes(CPU)
    assert before == pytest.approx(process_bytes(), rel=0.05)
    touch()
    assert peak_bytes(CPU) - before > 0.9 * BLOCK
    begin_peak(CPU)
    assert peak_bytes(CPU) - before < 0.5 * BLOCK


def test_a_system_without_a_reset_gives_the_peak_of_the_process_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("_STATUS", "_RESET"):
        monkeypatch.setattr(memory_use, name, tmp_path / "missing" / name)
    assert not begin_peak(CPU)
    touch()
    # A child inherits the maximum of its parent, so it may exceed the kernel's own mark.
    assert peak_bytes(CPU) >= 0.9 * process_bytes()


def test_what_torch_keeps_of_earlier_work_on_a_gpu_is_no_part_of_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, name=name: calls.append(name))
    assert begin_peak(torch.device("cuda:0"))
    assert calls == ["empty_cache", "reset_peak_memory_stats"]  # the peak begins at what is reserved then


@pytest.mark.skipif(sys.platform != "linux", reason="reads the kernel's mark")
def test_a_run_reports_the_peak_of_its_whole_duration(
    pocket_qwen3: Path, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = torch.optim.AdamW.step
    seen: list[Any] = []

    def step_with_a_copy(self: Any, *given: Any) -> Any:
        touch()
        return step(self, *given)

    monkeypatch.setattr(torch.optim.AdamW, "step", step_with_a_copy)
    rows = repository / "notebooks" / "ask-the-cow.jsonl"
    given: dict[str, Any] = {"max_steps": 1, "rank": 1, "method": "lora", "device": "cpu", "listener": seen.append}
    run = aprnb.finetune(pocket_qwen3, data=rows, output=tmp_path / "out.apr", **given)
    [first] = [event for event in seen if isinstance(event, events.StepEvent)]
    assert first.memory_bytes - process_bytes() > 0.7 * BLOCK
    assert run.to_json()["peak_memory_bytes"] == pytest.approx(peak(), rel=0.02)


@needs_reset
def test_the_fingerprint_of_the_base_copies_no_tensor() -> None:
    model = nn.Embedding(60_000, 896).requires_grad_(False)
    size = model.weight.nbytes
    before = forget_peak()
    gates.frozen_fingerprint(model)
    assert peak() - before < size / 8
