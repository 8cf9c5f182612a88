"""Folders as models: logits and tokens of the source, and a run that starts from one."""

from __future__ import annotations

import json

import pytest
import torch
from tokenizers import Tokenizer

import aprnb
from aprnb_tests.safetensors_bytes import folder_of


@pytest.fixture(params=["pocket-qwen3", "pocket-qwen2"])
def pair(request, real, sources, tmp_path):
    source = sources / request.param.removeprefix("pocket-")
    return folder_of(real(request.param), source, tmp_path / request.param), source


def test_a_folder_gives_the_sources_logits(pair):
    """Bounds as for the `.apr` imports of the same files in test_build.py."""
    folder, source = pair
    reference = json.loads((source / "reference_logits.json").read_text())
    model, tokenizer = aprnb.load(folder, dtype="float32")
    with torch.no_grad():
        found = model(torch.tensor([reference["input_ids"]])).logits[0]
    difference = (found[-1, :16] - torch.tensor(reference["last_logits_first_16"])).abs().max()
    assert difference / (found.max() - found.min()) <= 1e-4
    assert found.argmax(-1).tolist() == reference["argmax"]
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == ("<|im_end|>", "<|endoftext|>", None)


def test_the_tokenizer_file_itself_counts(pair):
    folder, _ = pair
    changed = json.loads((folder / "tokenizer.json").read_text())
    changed["normalizer"] = {"type": "Lowercase"}  # what no metadata says
    (folder / "tokenizer.json").write_text(json.dumps(changed))
    _, tokenizer = aprnb.load(folder)
    wanted = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("HELLO", add_special_tokens=False).ids
    assert tokenizer("HELLO", add_special_tokens=False).input_ids == wanted


def test_a_run_starts_from_a_folder_and_leaves_an_apr(pocket_qwen3, sources, repository, tmp_path):
    folder = folder_of(pocket_qwen3, sources / "qwen3", tmp_path / "pocket")
    data = repository / "notebooks" / "ask-the-cow.jsonl"
    run = aprnb.finetune(folder, data=data, output=str(tmp_path / "out.apr"), epochs=1, batch_size=8)
    assert run.status == "finished"
    assert aprnb.check(tmp_path / "out.apr").ok
