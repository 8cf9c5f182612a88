"""The table of fields: complete, and in agreement with the format and with the families."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest

from aprnb.architecture import FAMILIES, Architecture
from aprnb.architecture.families import family_of_gguf
from aprnb.formats.apr.metadata_text import KINDS
from aprnb.formats.fields import FIELDS, STANDARD, TYPED

VALUES = {"integer": 1, "number": 1.5}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_field_of_a_family_has_a_row(family):
    assert set(FAMILIES[family].fields) <= set(FIELDS)


def test_every_row_is_a_field_of_a_family():
    assert set(FIELDS) == {"model_type", *(name for family in FAMILIES.values() for name in family.fields)}


def test_the_standard_fields_are_the_attributes_of_an_architecture_in_their_order():
    names = [field.name for field in dataclasses.fields(Architecture)]
    assert names[: names.index("extra")] == ["model_type", *STANDARD]


@pytest.mark.parametrize("key", TYPED)
def test_typed_keys_have_the_kind_that_the_format_asks_for(key):
    assert KINDS[key].accepts(VALUES[TYPED[key].kind])
    assert not KINDS[key].accepts("1")


@pytest.mark.parametrize("column", ["apr", "gguf"])
def test_a_key_states_one_field(column):
    found = [(row.apr, *row.apr_aliases) if column == "apr" else row.gguf for row in FIELDS.values()]
    assert max(Counter(key for keys in found for key in set(keys) if key).values()) == 1


@pytest.mark.parametrize(
    ("slug", "has_experts", "family"),
    [
        ("llama", False, "llama"),  # Mistral's files name it too
        ("llama", True, "mixtral"),
        ("qwen3moe", True, "qwen3_moe"),
        ("qwen3moe", False, "qwen3_moe"),
        ("gemma3", False, "gemma3_text"),
        ("falcon", False, None),
    ],
)
def test_a_graph_of_llama_cpp_is_that_of_one_family(slug, has_experts, family):
    found = family_of_gguf(slug, has_experts)
    assert (found and found.model_type) == family
