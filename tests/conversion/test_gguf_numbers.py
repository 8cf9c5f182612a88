"""Numbers of published configs on their way to GGUF, which holds float32: compared as such, not digit by digit."""

from __future__ import annotations

import numpy as np
import pytest

import aprnb
from aprnb.formats.metadata import same
from aprnb_tests import families

PUBLISHED = {
    "phi-3-mini-128k": [1.0700000524520874, 1.1200000047683716, 1.149999976158142, 63.09040069580078],
    "phi-4-mini": [1, 1.118320672, 1.250641126, 32.0],
}
"""Factors as these models' configs state them: float32 written as float64, whole numbers, ten digits."""
CHANGED = {
    "phi3": {"rms_norm_eps": 9.999999747378752e-06},
    "granite": {
        "embedding_multiplier": 12.000000123, "attention_multiplier": 0.015625001, "residual_multiplier": 0.2199999988,
        "logits_scaling": 7.9999999, "rms_norm_eps": 9.999999747378752e-06,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 1234567.891, "factor": 1.0700000524520874},
    },
    "qwen2": {
        "use_sliding_window": False,
        "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 1e6, "factor": 1.118320672, "original_max_position_embeddings": 32,
            "beta_fast": 31.9999999, "beta_slow": 1.0000001,
        },
    },
    "gemma2": {
        "attn_logit_softcapping": 50.00000001, "final_logit_softcapping": 30.1234567891, "query_pre_attn_scalar": 24,
    },
}  # fmt: skip


def to_gguf(family, changes, tmp_path, monkeypatch, size=2):
    monkeypatch.setitem(families.SPECIAL, family, families.SPECIAL[family] | changes)
    families.saved(family, tmp_path / "hf", size)
    aprnb.convert(tmp_path / "hf", tmp_path / "x.gguf")
    return aprnb.open(tmp_path / "hf").architecture, aprnb.open(tmp_path / "x.gguf").architecture


@pytest.mark.parametrize("family", CHANGED)
def test_numbers_that_float32_rounds_go_to_gguf(family, tmp_path, monkeypatch):
    meant, found = to_gguf(family, CHANGED[family], tmp_path, monkeypatch)
    for name, value in meant.fields().items():
        if isinstance(value, float) and name != "partial_rotary_factor":
            assert np.float32(found[name]) == np.float32(value)


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("more", [{}, {"attention_factor": 1.1902380714}, {"attention_factor": 2.5}], ids=str)
def test_published_longrope_factors_go_to_gguf(name, more, tmp_path, monkeypatch):
    """The usual attention factor of 131,072 positions from 4,096 is √(1 + ln 32 / ln 4096) = 1.1902380714."""
    rope = {**families.LONGROPE, "long_factor": PUBLISHED[name], "short_factor": PUBLISHED[name], **more}
    rope["original_max_position_embeddings"] = 4096
    changes = {
        "rope_parameters": rope, "original_max_position_embeddings": 4096, "max_position_embeddings": 131_072,
        "sliding_window": None,
    }  # fmt: skip
    _, found = to_gguf("phi3", changes, tmp_path, monkeypatch, size=1)
    for key in ("long_factor", "short_factor"):
        assert [np.float32(each) for each in found.rope_scaling[key]] == [np.float32(each) for each in rope[key]]


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ([1.07, {"a": 1}], [1.0700000524520874, {"a": 1}], True),
        ([1.07], [1.0700002], False),
        ([1.07], [1.07, 1.07], False),
        ({"a": 1.0}, {"b": 1.0}, False),
        (1.07, "1.07", False),
        (True, 1, False),
        (151_936, 151_937, False),
        (1 << 40, (1 << 40) + 1, True),  # beyond float32's whole numbers; no field is as large
    ],
)
def test_two_values_are_the_same_if_float32_cannot_tell_them_apart(one, other, equal):
    assert same(one, other) is equal
