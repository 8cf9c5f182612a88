"""A run's model answers as `aprnb.generate` says, with an adapter on NF4 weights."""

from __future__ import annotations

from pathlib import Path

import aprnb

ROWS = [{"instruction": f"Spell {word}.", "response": " ".join(word)} for word in ("cow", "dog", "cat", "hen")]


def test_a_qlora_run_on_a_cpu_decodes_its_base_once_for_an_answer(pocket_qwen3: Path, tmp_path: Path) -> None:
    run = aprnb.finetune(
        pocket_qwen3, data=ROWS, method="qlora", rank=2, max_steps=1, output=str(tmp_path / "x.apr"), adapter_only=True,
        device="cpu",
    )  # fmt: skip
    answer = run.generate("Spell cow.", stop=[" w"])
    assert (answer.text, answer.stop_reason, answer.stop_text) == ("c o", "stop", " w")
    assert "decoded once" in answer.notices[0]
    assert run.generate("Spell cow.").stop_text == "<|im_end|>"
