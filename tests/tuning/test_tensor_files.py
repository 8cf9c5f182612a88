"""Safetensors files of torch tensors: the library's own bytes, without its copies."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from aprnb.tuning.tensor_files import read_tensors, write_tensors
from aprnb_tests.memory import forget_peak, peak


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "b": torch.randn(3, 5), "a": torch.arange(7, dtype=torch.uint8), "half/ß": torch.randn(2, 3).half(),
        "bf": torch.randn(5).bfloat16(), "step": torch.tensor(3.0), "none": torch.empty(0, 4),
        "flag": torch.ones(3) > 0, "turned": torch.randn(4, 6).t(),
        "long": torch.arange(3), "part": torch.randn(9)[::2],
    }  # fmt: skip


def test_the_file_is_that_of_the_library(tmp_path: Path) -> None:
    given = tensors()
    write_tensors(given, tmp_path / "ours.safetensors")
    save_file({name: one.contiguous() for name, one in given.items()}, tmp_path / "its.safetensors", {"format": "pt"})
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "its.safetensors").read_bytes()


@pytest.mark.parametrize("read", [load_file, lambda path: read_tensors(path, 1 << 20)], ids=["library", "ours"])
def test_the_tensors_come_back_as_they_were(tmp_path: Path, read) -> None:
    write_tensors(tensors(), tmp_path / "x.safetensors")
    found = read(tmp_path / "x.safetensors")
    assert found.keys() == tensors().keys()
    for name, wanted in tensors().items():
        assert found[name].dtype == wanted.dtype
        assert torch.equal(found[name], wanted)


def test_tensors_that_share_memory_are_written_twice(tmp_path: Path) -> None:
    one = torch.randn(4)
    write_tensors({"one": one, "other": one}, tmp_path / "x.safetensors")
    assert torch.equal(load_file(tmp_path / "x.safetensors")["other"], one)


@pytest.mark.skipif(not peak(), reason="the system reports no peak")
def test_writing_takes_no_second_copy(tmp_path: Path) -> None:
    given = {str(number): torch.ones(32 << 20) for number in range(2)}  # 128 MiB each
    before = forget_peak()
    write_tensors(given, tmp_path / "x.safetensors")
    assert peak() - before < 16 << 20
