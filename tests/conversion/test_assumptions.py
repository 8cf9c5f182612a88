"""A key that a config lost is told by everything that goes on from it, before the result states it as a fact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from adapters.test_targets import QUERIES, written

import aprnb
from aprnb.model.generate_file import generate_file
from aprnb.model.sampling import choose_sampling
from aprnb_tests.safetensors_bytes import folder_of

TOLD = "assumed rope_theta = 10000.0: config.json leaves out rope_theta, the default of Qwen3Config"
"""10,000 is the default of Qwen3Config; the model was trained with 1,000,000."""


@pytest.fixture
def folder(pocket_qwen3: Path, sources: Path, tmp_path: Path) -> Path:
    folder = folder_of(pocket_qwen3, sources / "qwen3", tmp_path / "base")
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    lost = [config.pop(key, None) for key in ("rope_theta", "rope_parameters", "rope_scaling")]
    assert 1_000_000 in (lost[0], (lost[1] or {}).get("rope_theta"))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("target", ["x.apr", "x.gguf", "x"])
def test_a_conversion_warns_of_it_once(folder, tmp_path, target):
    converted = aprnb.convert(folder, tmp_path / target)
    assert [text for text in converted.warnings if "rope_theta" in text] == [TOLD]
    assert converted.to_json()["warnings"] == list(converted.warnings)
    assert str(converted).count("rope_theta = ") == 1
    assert not any("None" in text for text in converted.warnings)  # no scaling is what most models have


def test_a_merge_warns_of_it(folder, tmp_path):
    adapter = written(folder, tmp_path / "adapter", QUERIES, target_modules=["q_proj"])
    merged = aprnb.merge(folder, adapter, tmp_path / "merged.apr")
    assert [text for text in merged.warnings if "rope_theta" in text] == [TOLD]


def test_loading_warns_of_it(folder):
    with pytest.warns(UserWarning, match="rope_theta") as told:
        aprnb.load(folder, device="cpu")
    assert [str(one.message) for one in told if "rope_theta" in str(one.message)] == [TOLD]
    assert Path(told[0].filename).name == "test_assumptions.py"  # where a notebook shows it


def test_an_answer_tells_it(folder):
    def answer(**given: Any) -> tuple[str, ...]:
        sampling = choose_sampling(None, None, None, None, None, None)
        silent: dict[str, Any] = {"on_text": lambda _: None, "on_phase": lambda _: None}
        return generate_file(folder, "cow", sampling, raw=True, max_new_tokens=1, **silent, **given).notices

    assert answer() == (TOLD,)
    assert answer(overrides={"rope_theta": "1e6"}) == ()


def test_what_all_published_models_of_a_family_share_is_listed_without_a_warning(pocket_qwen3, tmp_path):
    converted = aprnb.convert(pocket_qwen3, tmp_path / "x.gguf")
    assert any(text.startswith("hidden_act = silu") for text in converted.assumptions)
    assert not any("hidden_act" in text for text in converted.warnings)
    assert "hidden_act = silu" in str(converted)
    assert converted.to_json()["assumptions"] == list(converted.assumptions)
