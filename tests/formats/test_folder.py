"""Hugging Face folders: the same checkpoint whole, in shards, as a file; and folders that are not supported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import aprnb
from aprnb.errors import AprnbError, CheckpointError, FileMissing, UnsupportedFormat, UsageProblem
from aprnb_tests import families
from aprnb_tests.safetensors_bytes import folder_of, small_file


@pytest.fixture
def folder(pocket_qwen3, sources, tmp_path) -> Path:
    return folder_of(pocket_qwen3, sources / "qwen3", tmp_path / "pocket-qwen3")


@pytest.fixture
def sharded(pocket_qwen3, sources, tmp_path) -> Path:
    return folder_of(pocket_qwen3, sources / "qwen3", tmp_path / "sharded", shards=3)


def rejected(path: Path, message: str, kind: type[AprnbError] = CheckpointError) -> None:
    with pytest.raises(kind, match=message):
        aprnb.open(path)


def test_folder_file_and_shards_are_the_same_checkpoint(folder, sharded, pocket_qwen3):
    opened = [aprnb.open(path) for path in (folder, folder / "model.safetensors", sharded)]
    opened.append(aprnb.open(sharded / "model.safetensors.index.json"))
    assert [each.format for each in opened] == ["huggingface", "safetensors", "huggingface", "safetensors"]
    with aprnb.open(pocket_qwen3) as base:
        names = [name for name, entry in base.tensors.items() if entry.size_bytes]
        for each in opened:
            assert list(each) == names
            assert all(each.raw(name) == base.raw(name) for name in names)
            assert aprnb.check(each).ok
            assert each.architecture == base.architecture


def test_the_metadata_is_what_the_real_tool_writes_and_more(folder, pocket_qwen3):
    """Less: `tensor_shapes`, which describes the written file, and `tied_embeddings`, which no file of a folder states.
    The head's elements are not counted twice here, and ids without a token are told from the token `<unk>`."""
    imported, ours = aprnb.open(pocket_qwen3).metadata, aprnb.open(folder).metadata
    head = 1024 * 128
    differ = {key for key in imported if imported[key] is not None and ours.get(key) != imported[key]}
    assert differ == {"tensor_shapes", "param_count", "tied_embeddings", "tokenizer.vocabulary"}
    holes = [f"[PAD{at}]" if text == "<unk>" else text for at, text in enumerate(imported["tokenizer.vocabulary"])]
    assert ours["tokenizer.vocabulary"] == holes
    assert ours["param_count"] == imported["param_count"] - head
    config = json.loads((folder / "config.json").read_text())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert ours["hf_config"] == config
    assert ours["chat_template"] == settings["chat_template"]
    assert ours["special_tokens"]["eos_token"] == "<|im_end|>"
    assert set(ours) - set(imported) == {
        "hf_config", "chat_template", "special_tokens", "tokenizer.padding_token_id", "hf_tokenizer",
        "hf_tokenizer_config",
    }  # fmt: skip


def test_every_field_says_that_the_config_settled_it(folder):
    assert aprnb.open(folder).architecture.sources["rope_theta"] == "config.json rope_theta"


def test_the_config_of_the_folder_above_is_not_read(folder):
    (folder.parent / "config.json").write_text('{"model_type": "llama", "rope_theta": 5}')
    assert aprnb.open(folder).architecture.rope_theta == 1_000_000


def test_a_config_that_contradicts_the_weights_is_rejected_with_both(folder):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "hidden_size": 256}))
    with pytest.raises(AprnbError, match=r"hidden_size is 128 according to shape .*256 according to config.json"):
        aprnb.check(folder)


def test_weights_without_a_config_need_one_given(folder, sources):
    (folder / "config.json").unlink()
    alone = aprnb.open(folder / "model.safetensors")
    assert any("no config.json" in warning for warning in alone.warnings)
    with pytest.raises(AprnbError, match="do not name a transformer"):
        aprnb.check(alone)
    assert aprnb.check(alone, config=sources / "qwen3" / "config.json").ok


def test_a_folder_of_pickles_is_an_error_that_names_it(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    rejected(tmp_path, "pytorch_model.bin, a Python pickle", UnsupportedFormat)


def test_an_adapter_is_an_error_that_names_it(tmp_path):
    (tmp_path / "adapter_model.safetensors").write_bytes(small_file())
    rejected(tmp_path, "PEFT adapter", UnsupportedFormat)


def test_a_folder_with_two_models_is_rejected(folder):
    (folder / "model.safetensors.index.json").write_text("{}")
    rejected(folder, r"model.safetensors and model.safetensors.index.json")


def test_a_folder_without_weights_says_what_it_holds(tmp_path):
    (tmp_path / "one.apr").write_bytes(b"APR\0")
    with pytest.raises(CheckpointError, match="without model.safetensors") as caught:
        aprnb.open(tmp_path)
    assert "one.apr" in str(caught.value)


def change_index(sharded: Path, **changes: object) -> dict[str, str]:
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] |= changes
    path.write_text(json.dumps({**index, "weight_map": {k: v for k, v in index["weight_map"].items() if v}}))
    return index["weight_map"]


OUTWARD = ("../x.safetensors", "/etc/x.safetensors", "a\\b.safetensors", "a/b.safetensors", "x\0.safetensors")


@pytest.mark.parametrize("name", OUTWARD)
def test_shards_stay_inside_the_folder(sharded, name):
    change_index(sharded, **{"model.norm.weight": name})
    rejected(sharded, "a plain file name")


def test_a_shard_that_is_a_link_out_of_the_folder_is_rejected(sharded, tmp_path):
    shard = sharded / "model-00002-of-00003.safetensors"
    elsewhere = tmp_path / "elsewhere.safetensors"
    shard.rename(elsewhere)
    shard.symlink_to(elsewhere)
    rejected(sharded, "is a link to .*elsewhere")


def test_the_links_of_the_hubs_cache_are_followed(folder, tmp_path):
    """models--x/snapshots/REVISION/FILE → ../../blobs/HASH, as huggingface_hub lays files out."""
    blobs, snapshot = tmp_path / "models--x" / "blobs", tmp_path / "models--x" / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(folder.iterdir()):
        file.rename(blobs / str(number))
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(number))
    assert aprnb.check(snapshot).ok


def test_a_missing_shard_is_named(sharded):
    (sharded / "model-00002-of-00003.safetensors").unlink()
    rejected(sharded, "model-00002-of-00003.safetensors", FileMissing)


def test_a_tensor_that_no_shard_holds_is_named(sharded):
    change_index(sharded, **{"model.extra.weight": "model-00001-of-00003.safetensors"})
    rejected(sharded, "'model.extra.weight' is not in model-00001")


def test_a_tensor_that_the_index_does_not_list_is_named(sharded):
    change_index(sharded, **{"model.norm.weight": None})
    rejected(sharded, "'model.norm.weight' is in .* does not list it")


def test_an_index_that_names_itself_is_rejected(sharded):
    change_index(sharded, **{"model.norm.weight": "model.safetensors.index.json"})
    rejected(sharded, "names that end in .safetensors")


@pytest.mark.parametrize("content", ["", "[]", '{"weight_map": {}}', '{"weight_map": {"a": 3}}', "{"])
def test_an_index_that_is_not_an_index_is_rejected(sharded, content):
    (sharded / "model.safetensors.index.json").write_text(content)
    rejected(sharded, "weight_map|JSON")


def test_a_broken_tokenizer_is_a_warning_and_the_weights_still_open(folder):
    (folder / "tokenizer.json").write_text("{")
    assert any("tokenizer of the folder" in warning for warning in aprnb.open(folder).warnings)
    assert aprnb.check(folder).ok


def test_a_config_that_states_a_key_twice_is_rejected_with_it(folder):
    (folder / "config.json").write_text('{"model_type": "qwen3", "hidden_size": 128, "hidden_size": 256}')
    rejected(folder, "config.json gives 'hidden_size' two values")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a": [' + "[]," * 2_000_000 + "[]]}", '{"a": NaN}', '{"a": "\\ud800"}']
)
def test_a_config_that_is_an_attack_is_rejected(folder, text):
    (folder / "config.json").write_text(text)
    rejected(folder, "config.json")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_what_leads_out_of_the_folder_is_not_read(folder, tmp_path, name):
    (folder / name).rename(tmp_path / "secret")
    (folder / name).symlink_to(tmp_path / "secret")
    rejected(folder, "is a link to .*secret")


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"])
def test_a_secret_does_not_become_a_chat_template_or_a_tokenizer(folder, tmp_path, name):
    (tmp_path / "secret").write_text('{"chat_template": "the secret"}')
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "secret")
    opened = aprnb.open(folder)
    assert any("is a link to" in warning for warning in opened.warnings)
    assert "secret" not in str(opened.metadata.get("chat_template"))


def test_key_value_heads_that_a_config_leaves_out_are_not_called_the_files(tmp_path):
    """Starcoder2Config's own default, 2, is what transformers computes; the number of heads is another."""
    families.saved("starcoder2", tmp_path / "m", 1)
    path = tmp_path / "m" / "config.json"
    config = json.loads(path.read_text())
    heads = config.pop("num_key_value_heads")
    path.write_text(json.dumps(config))
    with aprnb.open(tmp_path / "m") as checkpoint:
        assert "num_kv_heads" not in checkpoint.metadata
        assert (checkpoint.architecture.num_key_value_heads, config["num_attention_heads"]) == (heads, 4)
        assert aprnb.check(checkpoint).exit_code == 0


def test_none_as_a_path_is_an_error_that_says_what_a_run_has_for_an_output():
    with pytest.raises(UsageProblem, match=r"the path is None\n.*see run\.status"):
        aprnb.open(None)
