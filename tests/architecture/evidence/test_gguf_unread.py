"""Keys of a GGUF file's architecture that no field expresses are named, and rejected where they change the result."""

from __future__ import annotations

import pytest
from architecture.evidence.test_gguf_keys import model

import aprnb
from aprnb.architecture.evidence.gguf_unread import unread_keys
from aprnb.architecture.families import FAMILIES
from aprnb_tests.gguf_bytes import ARRAY, BOOL, STRING, U32
from aprnb_tests.gguf_bytes import F32 as FLOAT

UNSCALED = {"rope.freq_base": (FLOAT, 1e6)}


def warnings(path, keys, slug="llama"):
    return unread_keys(model(path, {**UNSCALED, **keys}, slug=slug), FAMILIES[slug])


def test_an_unread_key_is_a_warning_that_names_it_and_its_value(tmp_path):
    checkpoint = model(tmp_path / "x.gguf", {**UNSCALED, "logit_scale": (FLOAT, 0.5), "weird": (STRING, "x")})
    first, second = checkpoint.architecture.warnings
    assert first == "GGUF llama.logit_scale is 0.5 and not read; the result is wrong if it changes the forward pass"
    assert second.startswith("GGUF llama.weird is 'x' and not read")


def test_what_converters_write_for_nothing_is_not_mentioned(tmp_path):
    """`llama.expert_count` 0 and the like; the pooling of embeddings is no part of a language model."""
    keys = {
        "expert_count": (U32, 0), "expert_used_count": (U32, 0), "use_parallel_residual": (BOOL, False),
        "deepstack": (ARRAY, (U32, [])), "pooling_type": (U32, 3), "rope.scaling.finetuned": (BOOL, False),
        "attention.causal": (BOOL, True), "rope.dimension_count": (U32, 16), "attention.value_length": (U32, 16),
    }  # fmt: skip
    assert warnings(tmp_path / "x.gguf", keys) == []


def test_the_warnings_are_at_most_eleven(tmp_path):
    found = warnings(tmp_path / "x.gguf", {f"weird{number:02}": (U32, 1) for number in range(15)})
    assert len(found) == 11 and found[-1] == "GGUF has 5 more keys of llama that are not read"


@pytest.mark.parametrize(
    ("slug", "key", "neutral", "value", "words"),
    [
        ("olmo2", "attention.sliding_window", (U32, 0), (U32, 4096), "is 4096: this is OLMo 3, .* not supported"),
        ("granite", "rope.scaling.finetuned", (BOOL, True), (BOOL, False), "is False: this is a Granite without"),
        ("llama", "attention.causal", (BOOL, True), (BOOL, False), r"is False: this is an encoder \(bidirectional\)"),
    ],
)  # fmt: skip
def test_a_key_that_the_class_cannot_express_is_an_error_that_names_it(tmp_path, slug, key, neutral, value, words):
    assert warnings(tmp_path / "x.gguf", {key: neutral}, slug) == []
    with pytest.raises(aprnb.errors.UnsupportedFamily, match=f"{slug}.{key} {words}"):
        warnings(tmp_path / "x.gguf", {key: value}, slug)


@pytest.mark.parametrize("name", ["qwen2.5-coder-0.5b-instruct", "gemma-3-270m"])
@pytest.mark.real
def test_every_key_of_a_published_model_is_read(real_models, name):
    assert aprnb.open(real_models / f"{name}.gguf").architecture.warnings == ()
