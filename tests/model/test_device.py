"""Device and dtype of a model: what does not exist is rejected, and bf16 follows the processor."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from aprnb.errors import UsageProblem
from aprnb.model import memory
from aprnb.model.device import place

GIB = 2**30


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """CUDA with two cards, of compute capability 7.5 and 8.0, as torch reports them; the second is the current one."""
    capabilities, current = {0: 7, 1: 8}, [1]

    @contextmanager
    def on(device: torch.device) -> Any:
        current.append(device.index)
        yield
        current.pop()

    def properties(device: int) -> Any:
        return SimpleNamespace(major=capabilities[device])

    cuda: dict[str, Any] = {
        "is_available": lambda: True, "device_count": lambda: 2, "device": on, "get_device_properties": properties,
        "current_device": lambda: current[-1],
    }  # fmt: skip
    for name, value in cuda.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return current


def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("name", ["mps", "meta", "xpu", "vulkan", "gpu", "cuda:-1", "cuda:x", "", "cpu:0"])
def test_what_is_no_device_of_ours_is_rejected_by_its_name(name: str, two_gpus: list[int]) -> None:
    with pytest.raises(UsageProblem, match=rf"(?s)device '?{name}'? .*expected auto, cpu, cuda or cuda:N") as caught:
        place(name)
    assert caught.value.exit_code == 2


def test_a_card_that_is_not_there_is_rejected_with_those_that_are(two_gpus: list[int]) -> None:
    for name in ("cuda:2", "cuda:300"):  # torch reads cuda:300 as cuda:44
        with pytest.raises(UsageProblem, match=f"device {name} is unavailable; expected cuda:0 or cuda:1"):
            place(name)
    assert place("cuda:0").device == torch.device("cuda:0")


def test_cuda_without_a_card_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    no_gpu(monkeypatch)
    with pytest.raises(UsageProblem, match="device cuda:1 is unavailable: no CUDA GPU"):
        place("cuda:1")
    assert place("auto").device == torch.device("cpu")


def test_a_plain_cuda_is_the_current_card(two_gpus: list[int]) -> None:
    assert place("cuda").device == place("auto").device == torch.device("cuda:1")


def test_bf16_needs_capability_8_of_the_chosen_card_not_of_the_current_one(two_gpus: list[int]) -> None:
    old, new = place("cuda:0"), place("cuda:1")
    assert (old.dtype, old.dtype_reason) == (torch.float32, "the GPU has no bf16 instructions")
    assert (new.dtype, new.dtype_reason) == (torch.bfloat16, "the GPU has bf16 instructions")


CPUS = [
    ({"architecture": "x86_64", "avx2": True, "avx512_f": True}, "AVX512", False),
    ({"architecture": "x86_64", "avx512_f": True, "avx512_bf16": True}, "AVX512", True),
    ({"architecture": "x86_64", "avx512_f": True, "amx_bf16": True}, "AVX512", True),
    # ATEN_CPU_CAPABILITY=avx2 keeps torch from them
    ({"architecture": "x86_64", "avx512_f": True, "avx512_bf16": True}, "AVX2", False),
    ({"architecture": "arm64", "neon": True}, "DEFAULT", False),
    ({"architecture": "arm64", "neon": True, "bf16": True}, "SVE256", True),
]


@pytest.mark.parametrize(("facts", "used", "has"), CPUS)
def test_a_cpu_computes_in_bf16_only_where_it_has_the_instructions(
    facts: dict[str, Any], used: str, has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: facts, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: used)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    found = place("cpu")
    assert found.dtype == (torch.bfloat16 if has else torch.float32)
    assert found.dtype_reason == f"the processor has {'' if has else 'no '}bf16 instructions"


def test_a_dtype_that_is_given_is_used_and_emulation_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64"}, raising=False)
    assert place("cpu", "f32").dtype_reason == "as given"
    found = place("cpu", "bf16")
    assert (found.dtype, found.is_emulated) == (torch.bfloat16, True)


# ---- memory of a GPU


def test_what_torch_s_cache_holds_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 30 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 12 * GIB)
    # 30 GiB are reserved, of which 18 hold nothing.
    assert memory.free_bytes(torch.device("cuda:0")) == 28 * GIB


def test_releasing_empties_torch_s_cache_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    emptied: list[None] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(None))
    memory.release_freed(torch.device("cpu"))
    assert not emptied
    memory.release_freed(torch.device("cuda:0"))
    assert emptied
