"""llama.cpp computes what we write: beyond each limit it gives the logits of `transformers`, or a warning says not."""

from __future__ import annotations

import copy
import json
import shutil
from typing import Any

import pytest
import torch
import transformers
from conversion.test_gguf_families import changes

import aprnb
from aprnb.architecture import FAMILIES
from aprnb.conversion.gguf.header import differences
from aprnb_tests import families
from aprnb_tests.llama_cpp import LlamaCpp

LENGTHS = (4, 12, 60)
"""Tokens: below and above every window (5 to 9) and original context (16), and the positions (64) nearly filled."""
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4}
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 16,
    "long_factor": [2.0 + step / 4 for step in range(8)], "short_factor": [1.1 + step / 20 for step in range(8)],
}  # fmt: skip
LONG = {"rope_parameters": families.PUBLISHED_LLAMA3, "max_position_embeddings": 16384}
SIX_LAYERS = {"num_hidden_layers": 6, "layer_types": ["sliding_attention"] * 5 + ["full_attention"]}
LOCAL = {"rope_type": "default", "rope_theta": 1e4}
PLAIN_PHI3 = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
ROTATING = [name for name in FAMILIES if name not in ("gpt2", "phi3", "gemma3_text")]

CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in FAMILIES),
    *((name, {"rope_parameters": LINEAR}) for name in ROTATING),
    *((name, {"rope_parameters": YARN} | ({"head_dim": 16} if name == "mixtral" else {})) for name in ROTATING),
    *((name, LONG) for name in ROTATING),
    *((name, {"head_dim": 16, "rope_parameters": LONGROPE}) for name in ROTATING if name != "mixtral"),
    *((name, {"head_dim": 24}) for name in ("llama", "mistral", "mixtral", "qwen3", "gemma")),
    *((name, {"sliding_window": 5}) for name in ("mistral", "mixtral", "starcoder2", "gemma2", "gemma3_text")),
    *((name, {"attention_bias": True}) for name in ("granite", "olmo2", "gemma", "gemma2", "smollm3", "qwen3")),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0, "layer_types": None}),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0, "layer_types": None}),
    ("llama", {"attention_bias": False, "mlp_bias": False}),
    ("llama", {"hidden_act": "gelu"}),
    ("llama", {"rope_parameters": {**YARN, "beta_fast": 16.0, "beta_slow": 2.0}}),
    ("llama", {"rope_parameters": {**YARN, "attention_factor": 1.5}}),
    ("llama", {"rope_parameters": {**YARN, "truncate": False}}),
    ("granite", {"mlp_bias": False}),
    ("starcoder2", {"use_bias": False}),
    ("smollm3", {"num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0]}),
    ("smollm3", {"num_hidden_layers": 4, "no_rope_layers": [0, 1, 1, 1]}),
    ("mixtral", {"num_experts_per_tok": 4}),
    ("qwen3_moe", {"norm_topk_prob": False}),
    ("gemma2", {"layer_types": ["full_attention"] * 3}),
    ("gemma3_text", SIX_LAYERS),
    ("gemma3_text", {**SIX_LAYERS, "final_logit_softcapping": 3.0}),
    ("gemma3_text", {**SIX_LAYERS, "attn_logit_softcapping": 2.0}),
    *(
        ("gemma3_text", {**SIX_LAYERS, "rope_parameters": {"full_attention": scaling, "sliding_attention": LOCAL}})
        for scaling in (LINEAR, YARN, families.PUBLISHED_LLAMA3)
    ),
    ("phi3", {"sliding_window": None}),
    ("phi3", {"sliding_window": None, "rope_parameters": PLAIN_PHI3, "original_max_position_embeddings": 64}),
    ("phi3", {"sliding_window": 9, "rope_parameters": PLAIN_PHI3, "original_max_position_embeddings": 64}),
    ("phi3", {"sliding_window": 64, "rope_parameters": PLAIN_PHI3, "original_max_position_embeddings": 64}),
]
DIFFERENT = [("phi3", {}), ("phi3", {"sliding_window": None}), CASES[-2]]
"""What is written with a warning."""


def model_of(family: str, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Random weights large enough that a wrong window or rotation moves the logits by 0.1 and more."""
    special = families.SPECIAL[family] | changes(family) | more
    monkeypatch.setitem(families.SPECIAL, family, copy.deepcopy(special))  # the classes write into their arguments
    config = families.config(family, 1, 1024)
    if FAMILIES[family].gguf.head == "own":
        config.tie_word_embeddings = False
    if getattr(config, "attn_logit_softcapping", None) is not None:
        config._attn_implementation = "eager"
    torch.manual_seed(3)
    model = getattr(transformers, FAMILIES[family].class_name)(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn_like(value) * 0.15)
    return model


def prompts(length: int) -> list[list[int]]:
    return [[(7 * at + start) % 800 + 3 for at in range(length)] for start in range(3, 9)]


def difference(model: Any, judge: LlamaCpp, length: int) -> float:
    """The largest difference of the 20 likeliest log-probabilities after one prompt."""
    for ids in prompts(length):
        try:
            found = judge.log_probabilities(ids)
        except KeyError:  # it holds a likeliest token that is part of a character back
            continue
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1].float()
        expected = torch.log_softmax(logits, -1)
        return max(abs(expected[token].item() - value) for token, value in found.items())
    raise AssertionError("no prompt is followed by a whole character")


@pytest.mark.parametrize(("family", "more"), CASES, ids=str)
def test_texts_beyond_each_limit_compute_the_same_or_the_conversion_says_not(
    family, more, llama_cpp, sources, tmp_path, monkeypatch
):
    model = model_of(family, more, monkeypatch)
    model.save_pretrained(tmp_path / "hf")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(sources / "qwen3" / name, tmp_path / "hf" / name)
    try:
        converted = aprnb.convert(tmp_path / "hf", tmp_path / "x.gguf")
    except aprnb.errors.OutputError as error:
        assert "GGUF" in error.found
        return
    with llama_cpp(converted.path) as judge:
        largest = max(difference(model, judge, length) for length in LENGTHS)
    of_the_graph = differences(aprnb.open(tmp_path / "hf").architecture)
    warned = any(text in converted.warnings for text in of_the_graph)
    assert warned == ((family, more) in DIFFERENT)
    assert (largest > 0.01) == warned


@pytest.mark.parametrize(
    ("family", "more", "message"),
    [
        ("starcoder2", {"use_bias": False}, "starcoder2 without attention_bias .* has the biases"),
        ("qwen2", LONG, "RoPE scaling 'llama3' .* expected linear or yarn"),
        ("llama", {"rope_parameters": LONGROPE}, "RoPE scaling 'longrope' .* expected linear or yarn or llama3"),
        ("gemma3_text", {**SIX_LAYERS, "attn_logit_softcapping": 2.0}, "attn_logit_softcapping 2.0"),
        ("mistral", {"sliding_window": 5}, "sliding_window 5"),
    ],
    ids=str,
)
def test_what_no_graph_computes_is_rejected_by_name(family, more, message, tmp_path, monkeypatch):
    model_of(family, more, monkeypatch).save_pretrained(tmp_path / "hf")
    with pytest.raises(aprnb.errors.OutputError, match=message):
        aprnb.convert(tmp_path / "hf", tmp_path / "x.gguf")


def test_a_window_as_long_as_the_positions_changes_nothing_and_warns_of_nothing(tmp_path, monkeypatch):
    model_of("phi3", CASES[-1][1], monkeypatch).save_pretrained(tmp_path / "hf")
    warnings = aprnb.convert(tmp_path / "hf", tmp_path / "x.gguf").warnings
    assert not any(text.startswith("llama.cpp ") for text in warnings)


def test_yarn_with_an_attention_factor_of_its_own_is_written(tmp_path, monkeypatch):
    """Whether llama.cpp computes it is compared above."""
    more = {"rope_parameters": {**YARN, "attention_factor": 1.5}}
    model_of("llama", more, monkeypatch).save_pretrained(tmp_path / "hf")
    aprnb.convert(tmp_path / "hf", tmp_path / "x.gguf")
    assert aprnb.open(tmp_path / "x.gguf").architecture.rope_scaling["attention_factor"] == pytest.approx(1.5)


@pytest.mark.parametrize("family", ["mistral", "starcoder2"])
def test_a_window_that_llama_cpp_ignores_is_written_without_it_on_request(family, tmp_path, monkeypatch):
    model_of(family, {"sliding_window": 5}, monkeypatch).save_pretrained(tmp_path / "hf")
    with pytest.raises(aprnb.errors.OutputError) as caught:
        aprnb.convert(tmp_path / "hf", tmp_path / "x.gguf")
    assert "give --set sliding_window=null" in str(caught.value)
    aprnb.convert(tmp_path / "hf", tmp_path / "x.gguf", overrides={"sliding_window": None})
    assert aprnb.open(tmp_path / "x.gguf").architecture.sliding_window is None


def test_the_old_name_of_longrope_is_read(tmp_path, monkeypatch):
    model_of("phi3", {}, monkeypatch).save_pretrained(tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config["rope_scaling"] = {"type": "su", **{key: rope[key] for key in ("long_factor", "short_factor")}}
    config |= {key: rope[key] for key in ("rope_theta", "partial_rotary_factor")}
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    aprnb.convert(tmp_path / "hf", tmp_path / "x.apr")
    aprnb.convert(tmp_path / "x.apr", tmp_path / "back")
    aprnb.convert(tmp_path / "hf", tmp_path / "x.gguf")
    written = json.loads((tmp_path / "back" / "config.json").read_text())
    assert (written.get("rope_parameters") or written["rope_scaling"])["rope_type"] == "longrope"
    assert "su" not in json.dumps(written.get("rope_scaling", {}))
    assert aprnb.open(tmp_path / "x.gguf").architecture.rope_scaling["rope_type"] == "longrope"
