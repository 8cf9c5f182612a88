"""A GGUF file is to us what the real tool makes of it: names, shapes, types, bytes and metadata, less its defects."""

import numpy as np
import pytest

import aprnb
from aprnb.architecture.apr_names import apr_names

IMPORTS = {"qwen2-F16": "gguf-qwen2-f16", "qwen3-untied-F16": "gguf-qwen3-f16", "llama-F16": "gguf-llama-f16"}
TYPED = (
    "model_type name license data_source data_license version original_format total_size param_count chat_template"
    " architecture hf_architecture hf_model_type hidden_size num_layers num_heads num_kv_heads vocab_size"
    " intermediate_size max_position_embeddings rope_theta rope_type rms_norm_eps head_dim"
).split()
DEFECTS = {
    "rope_type": "0 for qwen3, whose rows are split halves",
    "description": "speaks of Q4_K in every import",
    "head_dim": "left out, though attention.key_length gives it",
    "name": "the family's, where general.name says another",
}


def pair(fixtures_folder, source, imported):
    return aprnb.open(fixtures_folder / "gguf" / f"{source}.gguf"), aprnb.open(fixtures_folder / f"{imported}.apr")


@pytest.mark.parametrize(("source", "imported"), IMPORTS.items())
def test_tensors_have_the_imports_names_shapes_types_and_bytes(fixtures_folder, source, imported):
    ours, theirs = pair(fixtures_folder, source, imported)
    names = {name: written for name, (written,) in apr_names(ours, aprnb.check(ours)).items()}
    assert sorted(names.values()) == sorted(theirs)
    for name, written in names.items():
        entry, expected = ours.tensors[name], theirs.tensors[written]
        assert (entry.dtype, entry.shape, entry.size_bytes) == (expected.dtype, expected.shape, expected.size_bytes)
        assert ours.raw(name) == theirs.raw(written)


def test_a_quantised_import_is_the_same_decoded(fixtures_folder):
    """That import contains F32, and next to the real head a copy of the embedding under the head's name."""
    ours, theirs = pair(fixtures_folder, "llama-Q4_0", "gguf-llama-q4_0")
    names = {name: written for name, (written,) in apr_names(ours, aprnb.check(ours)).items()}
    assert {*names.values(), "lm_head.weight"} == set(theirs)
    for name, written in names.items():
        np.testing.assert_array_equal(ours[name], theirs[written])


@pytest.mark.parametrize(
    ("source", "imported"), [("qwen2-Q8_0", "gguf-qwen2-q8_0-preserve"), ("llama-Q4_0", "gguf-llama-q4_0-preserve")]
)
def test_a_preserving_import_has_our_names_and_bytes(fixtures_folder, source, imported):
    ours, theirs = pair(fixtures_folder, source, imported)
    assert set(ours) == set(theirs)
    for name in ours:
        assert ours.tensors[name].shape == theirs.tensors[name].shape
        assert ours.raw(name) == theirs.raw(name)


@pytest.mark.parametrize(("source", "imported"), IMPORTS.items())
def test_typed_metadata_is_the_imports_less_its_defects(fixtures_folder, source, imported):
    ours, theirs = pair(fixtures_folder, source, imported)
    differing = {key for key in TYPED if ours.metadata.get(key) != theirs.metadata.get(key)}
    assert differing <= DEFECTS.keys()
    assert ours.metadata["head_dim"] == ours.architecture.head_dim
    assert ours.metadata["rope_type"] == (0 if source.startswith("llama") else 2)


@pytest.mark.parametrize(("source", "imported"), IMPORTS.items())
def test_the_tokenizer_and_the_template_are_the_imports(fixtures_folder, source, imported):
    ours, theirs = pair(fixtures_folder, source, imported)
    keys = {key for key in theirs.metadata if key.startswith("tokenizer.") or key == "chat_template"}
    assert len(keys) >= 11
    assert {key: ours.metadata.get(key) for key in keys} == {key: theirs.metadata[key] for key in keys}


@pytest.mark.parametrize(("source", "imported"), IMPORTS.items())
def test_only_mirrors_and_the_list_of_shapes_are_left_out(fixtures_folder, source, imported):
    ours, theirs = pair(fixtures_folder, source, imported)
    left_out = {key for key in theirs.metadata.keys() - ours.metadata.keys() if theirs.metadata[key] is not None}
    assert {key for key in left_out if not key.startswith("model.")} == {"description", "tensor_shapes"}


def test_other_files_keep_their_names(pocket_qwen3):
    checkpoint = aprnb.open(pocket_qwen3)
    assert all((name,) == written for name, written in apr_names(checkpoint, aprnb.check(checkpoint)).items())
