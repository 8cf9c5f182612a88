"""Which source decides: the architecture of every real file, and errors that name the field and what to do."""

import json
from pathlib import Path

import pytest

import aprnb
from aprnb.architecture import FAMILIES, resolve
from aprnb_tests.apr_bytes import with_metadata

DATA = Path(__file__).parents[1] / "data"
GREEN = [
    *(
        "pocket-qwen3 pocket-qwen3-fp16 pocket-qwen3-int8 pocket-qwen3-int4 pocket-qwen3-q4k pocket-qwen3-stream-q4k"
    ).split(),
    *("pocket-qwen2 pocket-qwen2-int8 pocket-qwen2-int4 pocket-qwen2-q4k qwen3-untied qwen3-untied-sharded").split(),
    *("llama llama-int8 llama-q4k gguf-qwen2-f16 gguf-qwen3-f16 gguf-llama-f16 gguf-llama-q4_0").split(),
    *("gguf-llama-q4_0-preserve gguf-qwen2-q8_0-preserve gemma").split(),
]
NEEDS_CONFIG = {
    "pocket-qwen3-convert-fp16": ("qwen3", "rope_theta"),
    "pocket-qwen3-convert-q4k": ("qwen3", "model_type is qwen2 according to .*q_norm.*qwen3"),
    "pocket-qwen2-convert-fp16": ("qwen2", "num_attention_heads.*rope_theta"),
    "mistral": ("mistral", "does not state sliding_window"),
}


def differences(architecture, truth):
    return {
        key: (value, getattr(architecture, key)) for key, value in truth.items() if getattr(architecture, key) != value
    }


@pytest.mark.parametrize("name", GREEN)
def test_a_real_file_resolves_to_its_architecture_and_passes_the_contract(real, golden, name):
    report = aprnb.check(real(name))
    assert differences(report.architecture, golden(name)["true_architecture"]) == {}
    assert report.ok
    assert set(report.architecture.sources) == set(report.architecture.fields())


@pytest.mark.parametrize("name", NEEDS_CONFIG)
def test_a_file_that_leaves_the_forward_pass_open_is_rejected_until_its_config_is_given(real, golden, sources, name):
    source, message = NEEDS_CONFIG[name]
    with pytest.raises(aprnb.AprnbError, match=f"(?s){message}.*--config") as caught:
        aprnb.check(real(name))
    assert caught.value.exit_code == 5
    report = aprnb.check(real(name), config=sources / source / "config.json")
    assert report.ok
    assert differences(report.architecture, golden(name)["true_architecture"]) == {}


def test_a_config_of_another_model_is_rejected(real, sources):
    with pytest.raises(aprnb.AprnbError, match="hidden_size is 128 according to .*256 according to config.json"):
        aprnb.check(real("pocket-qwen3-convert-q4k"), config=sources / "qwen3-untied" / "config.json")


def test_a_sidecar_config_that_does_not_fit_is_not_used_and_a_warning(pocket_qwen3, sources, tmp_path):
    for source, word in (("qwen2", "another model"), ("qwen3", None)):
        (tmp_path / "m.apr").write_bytes(pocket_qwen3.read_bytes())
        (tmp_path / "config.json").write_text((sources / source / "config.json").read_text())
        architecture = aprnb.open(tmp_path / "m.apr").architecture
        assert architecture.hidden_size == 128
        assert (word is None) or any(word in warning for warning in architecture.warnings)
    assert architecture.sources["rope_theta"] == "config.json rope_theta"


def test_set_fields_override_metadata_with_a_warning_and_never_shapes(pocket_qwen3):
    checkpoint = aprnb.open(pocket_qwen3)
    architecture = resolve(checkpoint, overrides={"rope_theta": "5e5"})
    assert (architecture.rope_theta, architecture.sources["rope_theta"]) == (500000.0, "--set rope_theta")
    assert (
        "rope_theta is 500000.0 according to --set rope_theta, 1000000.0 according to metadata rope_theta"
        in architecture.warnings
    )
    with pytest.raises(
        aprnb.AprnbError, match="num_hidden_layers is 3 according to layers in the tensor index, 2 according to --set"
    ):
        resolve(checkpoint, overrides={"num_hidden_layers": 2})
    with pytest.raises(aprnb.AprnbError, match="did you mean rope_theta"):
        resolve(checkpoint, overrides={"rope_thetta": 1})


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("qwen3_5", "hybrid"),
        ("qwen3_next", "hybrid"),
        ("mamba2", "state-space"),
        ("jamba", "hybrid"),
        ("bert", "encoder"),
        ("BertForMaskedLM", "encoder"),
        ("t5", "encoder and decoder"),
        ("whisper", "speech"),
        ("gemma3", "vision tower"),
        ("deepseek_v3", "latent attention"),
        ("qwen2_classify", "classifier"),
        ("never-heard-of", "not supported"),
    ],
)
def test_an_unsupported_family_is_an_error_that_names_it_and_the_supported_ones(pocket_qwen3, tmp_path, name, kind):
    path = tmp_path / "x.apr"
    stated = {**aprnb.open(pocket_qwen3).metadata, "architecture": name, "hf_model_type": name, "hf_architecture": None}
    path.write_bytes(with_metadata(pocket_qwen3.read_bytes(), stated))
    with pytest.raises(aprnb.AprnbError, match=f"family '{name}'.*{kind}.*{', '.join(FAMILIES)}") as caught:
        aprnb.check(path)
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(("name", "word"), [("slice_model", "bert"), ("golden_v2", "not name a transformer")])
def test_what_is_not_a_causal_language_model_is_an_error_that_names_it(foreign, name, word):
    with pytest.raises(aprnb.AprnbError, match=word):
        aprnb.check(foreign / f"{name}.apr")


def test_the_head_is_found_in_spite_of_false_metadata(real):
    assert aprnb.open(real("pocket-qwen2")).architecture.tie_word_embeddings is False
    assert any("flag is wrong" in warning for warning in aprnb.open(real("pocket-qwen2")).architecture.warnings)
    report = aprnb.check(real("gguf-llama-q4_0"))
    assert report.weights["lm_head.weight"] == "output.weight"


@pytest.mark.parametrize(
    ("key", "value"), [("hidden_size", "128"), ("num_heads", -4), ("rope_theta", True), ("num_layers", 3.5)]
)
def test_metadata_of_the_wrong_type_is_named(pocket_qwen3, tmp_path, key, value):
    metadata = {**aprnb.open(pocket_qwen3).metadata, key: value}
    (tmp_path / "m.apr").write_bytes(with_metadata(pocket_qwen3.read_bytes(), metadata))
    with pytest.raises(aprnb.AprnbError, match=f"metadata {key} is"):
        aprnb.check(tmp_path / "m.apr")


def test_llama_with_many_positions_and_no_scaling_key_is_unsettled(real):
    with pytest.raises(aprnb.AprnbError, match="does not state rope_scaling.*\n.*--set rope_scaling=VALUE"):
        resolve(aprnb.open(real("llama-q4k")), overrides={"max_position_embeddings": 131072})
    settled = resolve(
        aprnb.open(real("llama-q4k")), overrides={"max_position_embeddings": 131072, "rope_scaling": "none"}
    )
    assert settled.rope_scaling is None


def test_assumed_rules_are_listed(pocket_qwen3):
    architecture = aprnb.open(pocket_qwen3).architecture
    assert architecture.sources["sliding_window"] == "rule of the qwen3 family (assumed)"
    assert any(text.startswith("sliding_window = None") for text in architecture.assumptions)
    assert json.dumps(architecture.to_json())


@pytest.mark.parametrize("value", [10**400, 0, -1.0, True, "1e6", [1e6]])
def test_a_number_too_large_for_a_float_is_an_error_that_names_its_key(pocket_qwen3, tmp_path, value):
    """10**400 is valid in JSON and too large for a float; found by the fuzzer."""
    stated = {**aprnb.open(pocket_qwen3).metadata, "hf_config": {"model_type": "qwen3", "rope_theta": value}}
    (tmp_path / "x.apr").write_bytes(with_metadata(pocket_qwen3.read_bytes(), stated))
    with pytest.raises(aprnb.AprnbError, match="hf_config rope_theta is .*positive number"):
        aprnb.check(tmp_path / "x.apr")
