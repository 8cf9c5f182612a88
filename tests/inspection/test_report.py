"""The report is the same in JSON, text and HTML, for valid files and for files with violations."""

import dataclasses
import json
import re
import sys

import pytest

import aprnb
from aprnb.errors import MissingExtra
from aprnb_tests import families


def test_the_json_has_the_keys_that_scripts_rely_on(pocket_qwen3):
    found = json.loads(json.dumps(aprnb.inspect(pocket_qwen3, verify=True).to_json()))
    assert set(found["file"]) == {
        "path",
        "size_bytes",
        "format",
        "version",
        "flags",
        "header_checksum",
        "footer_checksum",
    }
    assert (found["file"]["header_checksum"], found["file"]["footer_checksum"]) == ("ok", "ok")
    assert found["architecture"]["head_dim"] == {
        "value": 64,
        "source": "shape of model.layers.0.self_attn.q_norm.weight",
    }
    assert found["parameters"] == {"total": 1_000_704, "unique": 869_632}
    assert set(found["tensors"][0]) == {"name", "dtype", "shape", "offset", "size_bytes"}
    assert found["contract"] == {"ok": True, "checked": 35, "violations": []}
    assert found["tokenizer"]["vocab_size"] == 1024


def test_long_values_of_the_architecture_are_shortened_in_a_card_and_whole_in_json(tmp_path):
    families.saved("gemma3_text", tmp_path)
    architecture = aprnb.open(tmp_path).architecture
    kinds = [*["sliding_attention"] * 5, "full_attention"] * 10
    scaling = {"rope_type": "longrope", "long_factor": [1.0] * 48}
    found = dataclasses.replace(architecture, rope_scaling=scaling, extra={**architecture.extra, "layer_types": kinds})
    shown = {name: value for name, value, _ in found.rows()}
    cycle = "5 × sliding_attention, full_attention"
    assert shown["layer_types"] == f"{cycle}, {cycle}, … (60 in all)"
    assert shown["rope_scaling"] == "{'rope_type': 'longrope', 'long_factor': '48 values'}"
    assert shown["hidden_size"] == str(architecture.hidden_size)
    assert found.to_json()["layer_types"]["value"] == kinds


def test_layers_and_dtypes_add_up_to_the_file(pocket_qwen3):
    report = aprnb.inspect(pocket_qwen3)
    for shares in (report.layers(), report.dtypes()):
        assert sum(share.tensors for share in shares) == 36
        assert sum(share.parameters for share in shares) == report.parameters["total"]
    assert [share.name for share in report.layers()] == ["outside layers", "layer 0", "layer 1", "layer 2"]


@pytest.mark.parametrize(
    ("name", "word"), [("slice_model", "family 'bert'"), ("pocket-qwen3-convert-q4k", "belongs to .* qwen3 ")]
)
def test_a_file_that_is_rejected_is_still_shown(real, foreign, name, word):
    report = aprnb.inspect(foreign / "slice_model.apr" if name == "slice_model" else real(name))
    assert not report.ok
    assert re.search(word, report.to_json()["architecture_error"])
    assert report.to_json()["contract"]["ok"] is None
    assert "not checked" in str(report)
    assert len(report.to_json()["tensors"]) > 20


def test_text_and_html_name_every_tensor(pocket_qwen3):
    report = aprnb.inspect(pocket_qwen3)
    for name in report.checkpoint:
        assert name in str(report)
        assert name in report.to_html()


def test_a_declared_quantization_that_the_tensors_do_not_have_is_a_warning(real):
    warnings = aprnb.inspect(real("gguf-qwen2-q8_0-preserve")).warnings
    assert any("declares quantization 'Q4_K'; the tensors hold Q8_0" in warning for warning in warnings)


def test_the_tensors_come_as_a_dataframe(pocket_qwen3):
    frame = aprnb.inspect(pocket_qwen3).df
    assert list(frame.columns) == ["name", "dtype", "shape", "offset", "size_bytes"]
    assert len(frame) == 36


def test_strict_rejects_what_would_be_a_warning_of_the_architecture(real):
    for work in (aprnb.inspect, aprnb.check):
        with pytest.raises(aprnb.AprnbError, match=r"strict.*flag is wrong") as caught:
            work(real("pocket-qwen2"), strict=True)
        assert caught.value.exit_code == 4


def test_strict_accepts_a_file_without_warnings(pocket_qwen3):
    assert aprnb.inspect(pocket_qwen3, strict=True).ok
    assert aprnb.check(pocket_qwen3, strict=True).ok


def test_a_table_without_pandas_names_what_to_install(pocket_qwen3, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtra, match="pandas is not installed") as caught:
        _ = aprnb.inspect(pocket_qwen3).df
    assert caught.value.action == 'pip install "aprnb[notebook]"'
