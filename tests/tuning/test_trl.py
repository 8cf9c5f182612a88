"""The loss before the first update is that of TRL with `assistant_only_loss` on the same rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import aprnb
from aprnb.tuning.training.events import StepEvent

pytest.importorskip("trl", reason="TRL is not here: pip install trl")

MARKED = """{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}
{%- if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}
{%- else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
"""The checkpoint's template, with the marks by which TRL finds the answers."""


def conversations(rows: Path) -> list[dict[str, Any]]:
    """One or two turns each."""
    pairs = [json.loads(line) for line in rows.read_text("utf-8").splitlines()][:18]
    turns = [
        [{"role": "user", "content": pair["instruction"]}, {"role": "assistant", "content": pair["response"]}]
        for pair in pairs
    ]
    return [{"messages": turns[at] + (turns[at + 1] if at % 2 else [])} for at in range(0, 17)]


def trl_loss(folder: Path, rows: list[dict[str, Any]], work: Path) -> tuple[float, int]:
    """TRL's loss over all rows in one batch, and the number of labels in it."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = MARKED
    config = SFTConfig(
        output_dir=str(work), assistant_only_loss=True, per_device_train_batch_size=len(rows), max_length=256,
        use_cpu=True, report_to="none", bf16=False, gradient_checkpointing=False, disable_tqdm=True,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    trainer = SFTTrainer(model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    [batch] = trainer.get_train_dataloader()
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, dict(batch))
    return loss.item(), int((batch["labels"][:, 1:] != -100).sum())


def test_the_loss_and_the_number_of_labels_are_those_of_trl(pocket_qwen3: Path, repository: Path, tmp_path) -> None:
    rows = conversations(repository / "notebooks" / "ask-the-cow.jsonl")
    aprnb.convert(pocket_qwen3, tmp_path / "base", dtype="f32")
    wanted, labels = trl_loss(tmp_path / "base", rows, tmp_path / "trl")
    events: list[Any] = []
    aprnb.finetune(
        tmp_path / "base", data=rows, output=tmp_path / "out.apr", method="lora", val_split=0, batch_size=len(rows),
        max_steps=1, adapter_only=True, device="cpu", dtype="float32", listener=events.append,
    )  # fmt: skip
    [step] = [event for event in events if isinstance(event, StepEvent)]
    assert step.labelled_tokens == labels
    assert step.loss == pytest.approx(wanted, rel=1e-5)
