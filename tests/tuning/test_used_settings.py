"""What a run used is read back from its module and compared with the plan, before it trains and before it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aprnb import finetune
from aprnb.errors import GateError
from aprnb.tuning import execution
from aprnb.tuning.training.events import StepEvent
from aprnb.tuning.training.loss import causal_model
from aprnb.tuning.training.used_settings import check_settings, planned_settings, read_settings


@pytest.fixture
def cow(repository: Path) -> Path:
    return repository / "notebooks" / "ask-the-cow.jsonl"


def spoiled_build(change: Any) -> Any:
    real = execution.build_model

    def build(*arguments: Any) -> Any:
        model: Any = real(*arguments)
        return change(model) or model

    return build


def adapters(model: Any) -> list[Any]:
    return [layer for layer in model.modules() if hasattr(layer, "lora_A")]


def other_alpha(model: Any) -> None:
    for layer in adapters(model):
        layer.scaling["default"] *= 2


def other_dropout(model: Any) -> None:
    from torch import nn

    for layer in adapters(model):
        layer.lora_dropout["default"] = nn.Dropout(0.5)


def frozen_adapter(model: Any) -> None:
    adapters(model)[3].lora_A["default"].weight.requires_grad = False


def other_attention(model: Any) -> None:
    causal_model(model).config._attn_implementation = "eager"


BUILT: dict[str, Any] = {"dtype": lambda model: model.bfloat16()}
ATTACHED: dict[str, Any] = {
    "alpha": other_alpha,
    "lora_dropout": other_dropout,
    "trainable_parameters": frozen_adapter,
    "attention": other_attention,
}


@pytest.mark.parametrize("name", [*BUILT, *ATTACHED])
def test_a_setting_that_is_not_the_planned_one_is_rejected_before_training(
    pocket_qwen3, cow, tmp_path, monkeypatch, name
) -> None:
    if name in BUILT:
        monkeypatch.setattr(execution, "build_model", spoiled_build(BUILT[name]))
    else:
        real = execution.attach

        def attach(*arguments: Any) -> Any:
            model = real(*arguments)
            ATTACHED[name](model)
            return model

        monkeypatch.setattr(execution, "attach", attach)
    heard: list[Any] = []
    with pytest.raises(GateError, match=rf"the run's {name} is .*; expected .*, as planned"):
        finetune(
            pocket_qwen3, data=cow, output=str(tmp_path / "out.apr"), method="lora", max_steps=1, device="cpu",
            listener=heard.append,
        )  # fmt: skip
    assert not any(isinstance(event, StepEvent) for event in heard)
    assert not (tmp_path / "out.run" / "manifest.json").exists()


def test_a_setting_that_changed_during_the_run_is_rejected_before_anything_is_written(
    pocket_qwen3, cow, tmp_path, monkeypatch
) -> None:
    held: list[Any] = []
    real = execution.attach
    monkeypatch.setattr(execution, "attach", lambda *arguments: held.append(real(*arguments)) or held[0])

    def switch_off(event: Any) -> None:
        if isinstance(event, StepEvent):
            causal_model(held[0]).gradient_checkpointing_disable()

    with pytest.raises(GateError, match="the run's gradient_checkpointing is off; expected on, as planned"):
        finetune(
            pocket_qwen3, data=cow, output=str(tmp_path / "out.apr"), method="lora", max_steps=2, device="cpu",
            gradient_checkpointing="on", listener=switch_off,
        )  # fmt: skip
    assert not (tmp_path / "out.run" / "manifest.json").exists()
    assert not (tmp_path / "out.apr").exists()
    assert not (tmp_path / "out.adapter").exists()


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("lora", {"method": "lora", "quantized_layers": 0, "rank": 4, "alpha": 12.0, "lora_dropout": 0.25}),
        ("qlora", {"method": "qlora", "quantized_layers": 21, "rank": 4, "alpha": 12.0, "lora_dropout": 0.25}),
        ("full", {"method": "full", "quantized_layers": 0}),
    ],
)
def test_the_manifest_records_what_was_used(pocket_qwen3, cow, tmp_path, method, more) -> None:
    adapter = {} if method == "full" else {"rank": 4, "alpha": 12.0, "lora_dropout": 0.25}
    run = finetune(
        pocket_qwen3, data=cow, output=str(tmp_path / "out.apr"), method=method, max_steps=1, device="cpu",
        gradient_checkpointing="on", **adapter,
    )  # fmt: skip
    used = json.loads((tmp_path / "out.run" / "manifest.json").read_text())["used"]
    assert used == planned_settings(run.plan)
    assert used.items() >= {**more, "device": "cpu", "dtype": "float32", "gradient_checkpointing": "on"}.items()
    assert used["trainable_parameters"] == run.plan.parameters_trainable
    assert ("adapted_layers" in used) == (method != "full")


def test_every_field_of_the_plan_is_compared(pocket_qwen3, cow, tmp_path) -> None:
    run = finetune(
        pocket_qwen3, data=cow, output=str(tmp_path / "out.apr"), method="lora", max_steps=1, adapter_only=True
    )
    used = read_settings(run._model)
    check_settings(run.plan, used)
    assert len(used) == 11
    for name in used:
        with pytest.raises(GateError, match=f"the run's {name} is other; expected"):
            check_settings(run.plan, used | {name: "other"})
