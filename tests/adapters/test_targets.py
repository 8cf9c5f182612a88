"""An adapter that lacks a layer which its config names, or holds one that it does not name, is a warning with both."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import aprnb
from aprnb.adapters import changes_of, read_adapter
from aprnb.adapters.targets import target_notes
from aprnb.architecture import expected_tensors
from aprnb_tests import families

PREFIX = "base_model.model."
LAYERS = range(3)  # of each tiny model
QUERIES = [f"model.layers.{layer}.self_attn.q_proj" for layer in LAYERS]
VALUES = [f"model.layers.{layer}.self_attn.v_proj" for layer in LAYERS]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")

    def base(family: str) -> Path:
        if not (root / family).exists():
            families.saved(family, root / family)
        return root / family

    return base


def written(base: Path, folder: Path, modules: list[str], **config: Any) -> Path:
    """An adapter of rank 2 with a pair for each of the modules."""
    folder.mkdir()
    stated = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, **config}
    (folder / "adapter_config.json").write_text(json.dumps(stated))
    tensors = {}
    with aprnb.open(base) as checkpoint:
        expected = expected_tensors(checkpoint.architecture)
    for module in modules:
        rows, columns = expected[f"{module}.weight"].shape
        tensors[f"{PREFIX}{module}.lora_A.weight"] = np.full((2, columns), 0.1, np.float32)
        tensors[f"{PREFIX}{module}.lora_B.weight"] = np.full((rows, 2), 0.1, np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def notes(base: Path, folder: Path) -> tuple[str, ...]:
    with aprnb.open(base) as checkpoint:
        report, adapter = aprnb.check(checkpoint), read_adapter(folder)
        return target_notes(adapter, report, changes_of(adapter, report, checkpoint.__getitem__))


COMPLETE: dict[str, tuple[list[str], dict[str, Any]]] = {
    "a list": (QUERIES, {"target_modules": ["q_proj"]}),
    "full names": (QUERIES[1:], {"target_modules": QUERIES[1:]}),
    "longer endings": (QUERIES, {"target_modules": ["self_attn.q_proj"]}),
    "an expression": (QUERIES[:2], {"target_modules": r".*layers\.[01]\.self_attn\.q_proj"}),
    "one layer": (QUERIES[1:2], {"target_modules": ["q_proj"], "layers_to_transform": [1]}),
    "one layer as a number": (QUERIES[2:], {"target_modules": ["q_proj"], "layers_to_transform": 2}),
    "some are excluded": (QUERIES[1:], {"target_modules": ["q_proj"], "exclude_modules": [QUERIES[0]]}),
    "an expression excludes": (QUERIES[1:], {"target_modules": ["q_proj"], "exclude_modules": r".*\.0\..*"}),
    "the config does not say": (QUERIES[1:], {}),
    "an expression that takes long": (QUERIES[1:], {"target_modules": r"(.*.*)*(.*)*q_proj"}),
    "all linear modules, but some": (
        QUERIES, {"target_modules": "all-linear", "exclude_modules": r".*\.([kvo]|gate|up|down)_proj"},
    ),
    "no layer of the base": (QUERIES, {"target_modules": ["q_proj", "c_attn"]}),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPLETE)
def test_an_adapter_with_all_its_layers_has_no_note(bases, tmp_path, name):
    modules, config = COMPLETE[name]
    assert notes(bases("qwen2"), written(bases("qwen2"), tmp_path / "a", modules, **config)) == ()


LACKING: dict[str, tuple[list[str], dict[str, Any], str]] = {
    "one of three": ([*QUERIES[:1], *QUERIES[2:]], {"target_modules": ["q_proj"]}, f"1 of the 3 .* {QUERIES[1]}"),
    "a whole kind": (QUERIES, {"target_modules": ["q_proj", "v_proj"]}, f"3 of the 6 .* {VALUES[0]}"),
    "of an expression": (
        QUERIES[:1], {"target_modules": r".*\.[01]\.self_attn\.q_proj"}, f"1 of the 2 .* {QUERIES[1]}",
    ),
    "of two layers": (
        QUERIES[1:2], {"target_modules": ["q_proj"], "layers_to_transform": [1, 2]}, f"1 of the 2 .* {QUERIES[2]}",
    ),
    "of all linear modules": (QUERIES, {"target_modules": "all-linear"}, "18 of the 21 .* model.layers.0.self"),
}  # fmt: skip


@pytest.mark.parametrize("name", LACKING)
def test_layers_that_the_adapter_lacks_are_counted_and_the_first_is_named(bases, tmp_path, name):
    modules, config, expected = LACKING[name]
    (note,) = notes(bases("qwen2"), written(bases("qwen2"), tmp_path / "a", modules, **config))
    assert re.search(expected, note), note


def test_layers_that_the_config_does_not_name_are_merged_and_named(bases, tmp_path):
    """PEFT ignores them: `load_adapter` wraps only what the config names."""
    made = written(bases("qwen2"), tmp_path / "a", [*QUERIES, *VALUES], target_modules=["q_proj"])
    (note,) = notes(bases("qwen2"), made)
    assert "3 layers that its config does not target" in note
    assert VALUES[0] in note


def test_stacked_experts_of_a_layer_that_are_missing_are_counted(bases, tmp_path):
    base = bases("mixtral")
    with aprnb.open(base) as checkpoint:
        experts = [
            name.removesuffix(".weight")
            for name, one in expected_tensors(checkpoint.architecture).items()
            if one.rule.per_expert
        ]
    made = written(base, tmp_path / "a", experts[1:], target_modules=["w1", "w2", "w3"])
    (note,) = notes(base, made)
    assert f"1 of the {len(experts)} " in note
    assert experts[0] in note


def test_merging_and_converting_show_the_note(bases, sources, tmp_path, pocket_qwen3):
    made = written(pocket_qwen3, tmp_path / "a", QUERIES[1:], target_modules=["q_proj"])
    merged = aprnb.merge(pocket_qwen3, made, tmp_path / "x.apr")
    converted = aprnb.convert(made, tmp_path / "x.gguf", base=pocket_qwen3)
    for result in (merged, converted):
        assert any("1 of the 3 layers" in each for each in result.warnings)
        assert "1 of the 3 layers" in str(result)
        assert "1 of the 3 layers" in result.to_html()
        assert any("1 of the 3 layers" in each for each in result.to_json()["warnings"])
