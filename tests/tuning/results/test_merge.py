"""Merging: what is written is finite, of the trained base, described as it is, and streams."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import aprnb
from aprnb.conversion import apr_model
from aprnb.errors import ContractError, OutputError, UsageProblem
from aprnb.formats import values
from aprnb.formats.codecs import decode, encode
from aprnb.formats.dtypes import BY_NAME
from aprnb.model.build import build_model
from aprnb.model.device import place
from aprnb.tuning.results.merge import merge, write_trained
from aprnb_tests import families
from aprnb_tests.large import HEAD_DIM, HEADS, HIDDEN, large_qwen3

TESTS = Path(__file__).parents[2]
NORM, QUERY = "model.norm.weight", "model.layers.0.self_attn.q_proj.weight"


def adapter(folder: Path, shape: tuple[int, int], names: tuple[str, ...] = (QUERY,)) -> Path:
    """Rank 2, every element of the change 2 · 0.1 · 0.1 · 4 / 2 = 0.04."""
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    matrices = {"A": np.full((2, shape[1]), 0.1, np.float32), "B": np.full((shape[0], 2), 0.1, np.float32)}
    stems = [f"base_model.model.{name.removesuffix('.weight')}.lora_" for name in names]
    tensors = {f"{stem}{part}.weight": matrix.copy() for stem in stems for part, matrix in matrices.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def with_first_value(source: Path, target: Path, name: str, value: float) -> Path:
    """A copy of the checkpoint in which the tensor begins with `value`."""
    with aprnb.open(source) as checkpoint:
        file, entry = checkpoint.contents.files[0], checkpoint.tensors[name]
        data = bytearray(source.read_bytes())
        raw = encode(np.array([value], np.float32), entry.dtype)
        at = file.data_start + entry.offset
        data[at : at + len(raw)] = raw
    target.write_bytes(data)
    return target


@pytest.fixture
def shape(pocket_qwen3: Path) -> tuple[int, int]:
    with aprnb.open(pocket_qwen3) as checkpoint:
        rows, columns = checkpoint.tensors[QUERY].shape
    return rows, columns


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [NORM, "model.embed_tokens.weight", QUERY])
@pytest.mark.parametrize("dtype", [None, "F32"])
def test_a_base_with_a_value_that_is_not_finite_is_not_merged(pocket_qwen3, shape, tmp_path, name, value, dtype):
    """Also where the adapter does not change the tensor, whose bytes stay as they are."""
    base = with_first_value(pocket_qwen3, tmp_path / "base.apr", name, value)
    made = adapter(tmp_path / "adapter", shape)
    with pytest.raises(OutputError, match=f"{name} would contain NaN or infinity"):
        merge(base, made, tmp_path / "out.apr", output_dtype=dtype)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base.apr"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", [NORM, "model.embed_tokens.weight", QUERY])
def test_trained_weights_that_are_not_finite_are_not_written(pocket_qwen3, tmp_path, name, value):
    with aprnb.open(pocket_qwen3) as checkpoint:
        report = aprnb.check(checkpoint)
        model = build_model(checkpoint, report, place("cpu", "float32"))
        _, tokenizer = aprnb.load(pocket_qwen3, device="cpu")
        weights = dict(model.named_parameters())
        with torch.no_grad():
            weights[name].view(-1)[-1] = value
        with pytest.raises(OutputError, match=f"{name} would contain NaN or infinity"):
            write_trained(checkpoint, report, weights, tokenizer, tmp_path / "out.apr", None, False, lambda path: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("elements", [100, 128, 1000])
def test_parts_of_any_size_give_the_same_bytes(pocket_qwen3, shape, tmp_path, monkeypatch, elements):
    """Parts begin and end inside rows, on their borders, and hold several."""
    made = adapter(tmp_path / "adapter", shape)
    whole = merge(pocket_qwen3, made, tmp_path / "a.apr").path
    monkeypatch.setattr(values.encoded_parts, "__defaults__", (elements,))
    (tmp_path / "b").mkdir()
    assert merge(pocket_qwen3, made, tmp_path / "b" / "a.apr").path.read_bytes() == whole.read_bytes()


def test_only_what_the_adapter_names_changes_and_by_its_product(pocket_qwen3, shape, tmp_path):
    merged = merge(pocket_qwen3, adapter(tmp_path / "adapter", shape), tmp_path / "out.apr", output_dtype="F32")
    before, after = aprnb.open(pocket_qwen3), aprnb.open(merged.path)
    assert merged.changed == 1
    assert after.tensors["lm_head.weight"].is_tied_placeholder
    for name in set(after) - {"lm_head.weight"}:
        expected = before[name] + (0.04 if name == QUERY else 0)
        np.testing.assert_allclose(after[name], expected, rtol=0, atol=1e-6)


def test_the_metadata_describe_the_merged_file(pocket_qwen3, shape, tmp_path):
    merged = merge(pocket_qwen3, adapter(tmp_path / "adapter", shape), tmp_path / "mine.apr").path
    with aprnb.open(merged) as checkpoint:
        stated = checkpoint.metadata
        assert stated["name"] == "mine"
        assert stated["tensor_shapes"] == {name: list(entry.shape) for name, entry in checkpoint.tensors.items()}
        assert stated["param_count"] == sum(entry.elements for entry in checkpoint.tensors.values())
        assert stated["original_format"] == "apr"
        assert not {"quantization", "sharding", "gguf.kv", "description", "source_metadata"} & set(stated)


def test_the_experts_of_a_merged_model_are_in_its_typed_metadata(sources, tmp_path):
    families.saved("qwen3_moe", tmp_path / "base", vocabulary=832)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "base" / name).write_bytes((sources / "qwen3" / name).read_bytes())
    with aprnb.open(tmp_path / "base") as checkpoint:
        rows, columns = checkpoint.tensors[QUERY].shape
        fields = checkpoint.architecture.fields()
    made = adapter(tmp_path / "adapter", (rows, columns))
    with aprnb.open(merge(tmp_path / "base", made, tmp_path / "out.apr").path) as merged:
        for name in ("num_experts", "num_experts_per_tok", "moe_intermediate_size"):
            assert merged.metadata[name] == fields[name]


MEASURE = """
import sys
from pathlib import Path
import aprnb.tuning.results.merge as room
from aprnb_tests.memory import forget_peak, peak
from aprnb.tokenizer import choose
before = forget_peak()
room.merge(sys.argv[1], sys.argv[2], sys.argv[3])
print(peak() - before)
"""


def test_the_peak_of_memory_is_that_of_some_parts(sources, tmp_path):
    """The base holds 300 MB, its embedding 134 MB; a part is 16 MiB in float32."""
    base = large_qwen3(tmp_path / "large.apr")
    (tmp_path / "tokenizer.json").write_bytes((sources / "qwen3" / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_bytes((sources / "qwen3" / "tokenizer_config.json").read_bytes())
    made = adapter(tmp_path / "adapter", (HEADS * HEAD_DIM, HIDDEN))
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(base), str(made), str(tmp_path / "out.apr")],
        capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout) <= 120_000_000, run.stdout


def test_every_float_type_survives_decoding_and_encoding():
    """Weights that stay as they are pass through float32: every finite value of 16 bits comes back bit by bit."""
    patterns = np.arange(1 << 16, dtype=np.uint16)
    for name, exponent in (("F16", 0x7C00), ("BF16", 0x7F80)):
        finite = patterns[(patterns & exponent) != exponent].tobytes()
        dtype = BY_NAME[name]
        assert encode(decode(finite, dtype, (len(finite) // 2,)), dtype) == finite


def test_several_end_tokens_of_the_config_stay_in_the_merged_one(fixtures_folder, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    for path in (fixtures_folder / "sources" / "qwen3").iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "eos_token_id": [826, 824], "pad_token_id": None}))
    with aprnb.open(base) as checkpoint:
        rows, columns = checkpoint.tensors[QUERY].shape
    merged = merge(base, adapter(tmp_path / "adapter", (rows, columns)), tmp_path / "out.apr").path
    written = aprnb.open(merged).metadata["hf_config"]
    assert (written["eos_token_id"], "pad_token_id" in written) == ([826, 824], False)


def test_a_merged_model_is_only_written_as_apr(pocket_qwen3, shape, tmp_path):
    folder = adapter(tmp_path / "adapter", shape)
    with pytest.raises(UsageProblem, match=r"merged\.gguf.*ends in \.apr"):
        aprnb.merge(pocket_qwen3, folder, tmp_path / "merged.gguf")
    assert not (tmp_path / "merged.gguf").exists()


def test_an_rslora_is_merged_and_compared_at_its_own_scale(pocket_qwen3, shape, tmp_path):
    made = adapter(tmp_path / "adapter", shape)
    config = json.loads((made / "adapter_config.json").read_text())
    (made / "adapter_config.json").write_text(json.dumps(config | {"use_rslora": True}))
    merged = merge(pocket_qwen3, made, tmp_path / "out.apr", output_dtype="F32")
    with aprnb.open(pocket_qwen3) as before, aprnb.open(merged.path) as after:
        # alpha / sqrt(r) · B·A = 4 / sqrt(2) · 2 · 0.1 · 0.1
        np.testing.assert_allclose(after[QUERY], before[QUERY] + 0.08 / np.sqrt(2), rtol=0, atol=1e-6)


def test_norms_of_a_merged_model_are_in_float32(pocket_qwen3, shape, tmp_path):
    merged = merge(pocket_qwen3, adapter(tmp_path / "adapter", shape), tmp_path / "out.apr", output_dtype="F16")
    with aprnb.open(merged.path) as checkpoint:
        found = {(len(one.shape), one.dtype.name) for one in checkpoint.tensors.values() if not one.is_tied_placeholder}
    assert found == {(1, "F32"), (2, "F16")}


def test_a_merged_file_that_lacks_a_tensor_is_not_kept(pocket_qwen3, shape, tmp_path, monkeypatch):
    real = apr_model.write_apr

    def without_a_norm(path, metadata, tensors, **options):
        return real(path, metadata, [tensor for tensor in tensors if tensor.name != NORM], **options)

    monkeypatch.setattr(apr_model, "write_apr", without_a_norm)
    with pytest.raises(ContractError, match=NORM):
        merge(pocket_qwen3, adapter(tmp_path / "adapter", shape), tmp_path / "out.apr")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
