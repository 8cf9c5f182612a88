"""Full training changes float32 weights, whatever the dtype that they are computed in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import aprnb
from aprnb.errors import GateError
from aprnb.formats import TensorSource, write_apr
from aprnb.formats.dtypes import BY_NAME
from aprnb.tuning.training.lora import prepare_full
from aprnb_tests.tiny import tiny_model


def with_digits_beyond_bfloat16(source: Path, path: Path) -> Path:
    """The model in float32, each weight moved by less than bfloat16 shows."""
    with aprnb.open(source) as checkpoint:
        names = [name for name, entry in checkpoint.tensors.items() if not entry.is_tied_placeholder]
        values = {name: checkpoint[name] * np.float32(1 + 2**-12) for name in names}
        metadata = dict(checkpoint.metadata)
    tensors = [TensorSource(name, BY_NAME["F32"], array.shape, array.tobytes) for name, array in values.items()]
    write_apr(path, metadata, tensors)
    return path


def test_computing_in_bf16_changes_no_weight_before_the_first_step(pocket_qwen3: Path, tmp_path: Path) -> None:
    base, output = with_digits_beyond_bfloat16(pocket_qwen3, tmp_path / "base.apr"), tmp_path / "out.apr"
    run = aprnb.finetune(
        base, data=8 * [{"instruction": "Spell cow.", "response": "c o w"}], val_split=0, max_steps=1, warmup_ratio=0,
        method="full", dtype="bf16", learning_rate=1e-7, device="cpu", output=str(output),
    )  # fmt: skip
    assert run.plan.recipe.dtype == "bfloat16"
    # Both are computed in float32: no rounding to 16 bits lies between the trained module and the file.
    assert run.to_json()["merge_check"]["max_abs_difference"] < 1e-4
    with aprnb.open(base) as before, aprnb.open(output) as after:
        moved = [after[name] - before[name] for name in before.tensors if name.endswith("proj.weight")]
    # Adam's first step is at most the rate. Rounding to bfloat16 would move weights of 0.1 by up to 2e-4.
    assert 0 < max(np.abs(each).max() for each in moved) < 2e-7


def test_a_module_in_16_bits_is_rejected() -> None:
    with pytest.raises(GateError, match=r"weight is in torch.bfloat16; expected float32"):
        prepare_full(tiny_model().to(torch.bfloat16))
