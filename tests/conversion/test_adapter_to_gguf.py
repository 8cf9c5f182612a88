"""A LoRA adapter as GGUF: llama.cpp with base and adapter computes what it computes of the merged model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

import aprnb
from aprnb import cli
from aprnb.architecture import FAMILIES
from aprnb.errors import OutputError, OutputExists, UsageProblem
from aprnb_tests import families

IDS = [5, 9, 2, 77, 31, 8, 60, 41, 3, 12, 99, 100, 7, 25, 64, 80]
QUERY = "base_model.model.model.layers.0.self_attn.q_proj"
ALL = "all-linear"
GRAPHS: dict[str, dict[str, Any]] = {
    "llama": {
        "rope_parameters": {**families.LLAMA3, "rope_theta": 5e5, "original_max_position_embeddings": 8192},
        "max_position_embeddings": 16384,
    },
    "mistral": {"sliding_window": None}, "qwen2": {"use_sliding_window": False}, "qwen3": {"attention_bias": False},
    "qwen3_moe": {"mlp_only_layers": []}, "gemma": {"tie_word_embeddings": True},
    "gemma2": {"query_pre_attn_scalar": 24, "tie_word_embeddings": True},
    "gemma3_text": {"query_pre_attn_scalar": 24, "layer_types": ["sliding_attention"] * 3, "tie_word_embeddings": True},
    "phi3": {"sliding_window": None}, "gpt2": {"scale_attn_by_inverse_layer_idx": False}, "granite": {},
    "olmo2": {"tie_word_embeddings": False}, "mixtral": {"sliding_window": None},
    "smollm3": {"no_rope_layers": [1, 1, 1], "attention_bias": False}, "starcoder2": {"sliding_window": None},
}  # fmt: skip
"""What to change in a family's tiny config so that llama.cpp's graph computes it."""


@pytest.fixture
def base(sources, tmp_path, monkeypatch):
    """`base("llama")`: a folder with a tiny model that llama.cpp's graph computes, and a tokenizer."""

    def made(name: str) -> Path:
        monkeypatch.setitem(families.SPECIAL, name, families.SPECIAL[name] | GRAPHS[name])
        families.saved(name, tmp_path / "base", vocabulary=832)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (tmp_path / "base" / file).write_bytes((sources / "qwen3" / file).read_bytes())
        return tmp_path / "base"

    return made


def trained(source: Path, made: Path, spread: float = 0.1, **options: Any) -> Path:
    """An adapter as PEFT saves it, with random matrices whose effect on the logits is large."""
    settled = {"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM", "target_modules": ALL, **options}
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32), LoraConfig(**settled))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn_like(parameter) * spread
        elif parameter.requires_grad:  # saved modules, biases, trained tokens
            parameter.data += torch.randn_like(parameter) * spread
    model.save_pretrained(made)
    return made


def assert_alike(
    llama_cpp, folder: Path, base: Path, adapter: Path, dtype: str | None = None, limit=2e-3, ids=IDS
) -> None:
    """The likeliest ids and their log-probabilities; the adapter moves them by far more than the limit."""
    aprnb.convert(base, folder / "base.gguf")
    aprnb.convert(adapter, folder / "adapter.gguf", base=base, dtype=dtype)
    aprnb.merge(base, adapter, folder / "merged.apr", output_dtype="F32")
    aprnb.convert(folder / "merged.apr", folder / "merged.gguf", dtype="f32")
    with llama_cpp(folder / "base.gguf") as plain:
        before = plain.log_probabilities(ids)
    with llama_cpp(folder / "merged.gguf") as wanted:
        merged, tokens = wanted.log_probabilities(ids), wanted.greedy(ids, 8)
    with llama_cpp(folder / "base.gguf", folder / "adapter.gguf") as found:
        adapted = found.log_probabilities(ids)
        assert found.greedy(ids, 8) == tokens
    common = merged.keys() & adapted.keys()
    assert len(common) >= 18  # of 20: the last ones may change places
    assert max(abs(merged[token] - adapted[token]) for token in common) <= limit
    shared = before.keys() & merged.keys()
    assert len(shared) < 20 or max(abs(before[token] - merged[token]) for token in shared) > 20 * limit


@pytest.mark.parametrize("family", GRAPHS)
def test_base_and_adapter_give_the_tokens_of_the_merged_model(llama_cpp, base, tmp_path, family):
    ids = {"phi3": IDS[:5], "gpt2": IDS[:5]}.get(family, IDS)  # llama.cpp reports nothing where the end is likeliest
    assert_alike(llama_cpp, tmp_path, base(family), trained(base(family), tmp_path / "a"), ids=ids)


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "scales by module": ("llama", {"rank_pattern": {"q_proj": 8, "up_proj": 2}, "alpha_pattern": {"k_proj": 2}}),
    "rsLoRA": ("qwen2", {"use_rslora": True}),
    "embedding and head": ("qwen2", {"target_modules": ["embed_tokens", "lm_head", "q_proj"]}),
    "alpha 0": ("qwen2", {"lora_alpha": 0, "alpha_pattern": {"q_proj": 8}}),
    "one stack of experts": ("mixtral", {"target_modules": ["q_proj"], "target_parameters": ["experts.down_proj"]}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_of_lora_keep_their_scales(llama_cpp, base, tmp_path, name):
    family, options = VARIANTS[name]
    assert_alike(llama_cpp, tmp_path, base(family), trained(base(family), tmp_path / "a", **options))


def test_half_precision_matrices_stay_close(llama_cpp, base, tmp_path):
    """Rounding A and B to 11 bits changes a sum of 64 products by about 1e-3 of itself."""
    assert_alike(llama_cpp, tmp_path, base("qwen3"), trained(base("qwen3"), tmp_path / "a"), "f16", limit=2e-2)


@pytest.mark.real
def test_an_adapter_of_a_published_gguf_gives_the_tokens_of_the_merged_model(llama_cpp, real_models, tmp_path):
    source = real_models / "qwen2.5-coder-0.5b-instruct.gguf"
    with aprnb.open(source) as checkpoint:
        architecture = checkpoint.architecture
    made = written(tmp_path / "a", architecture.hidden_size, architecture.num_hidden_layers)
    aprnb.convert(made, tmp_path / "adapter.gguf", base=source)
    aprnb.merge(source, made, tmp_path / "merged.apr", output_dtype="F32")
    aprnb.convert(tmp_path / "merged.apr", tmp_path / "merged.gguf")
    ids = [40, 2776, 264, 4285, 729, 429, 8473, 279]
    with llama_cpp(tmp_path / "merged.gguf") as wanted:
        merged = wanted.log_probabilities(ids)
    with llama_cpp(source, tmp_path / "adapter.gguf") as found:
        adapted = found.log_probabilities(ids)
    with llama_cpp(source) as plain:
        before = plain.log_probabilities(ids)
    common = merged.keys() & adapted.keys()
    difference = max(abs(merged[token] - adapted[token]) for token in common)
    effect = max(abs(merged[token] - before[token]) for token in merged.keys() & before.keys())
    assert len(common) >= 16
    assert next(iter(merged)) == next(iter(adapted))
    assert difference < 0.1 * effect  # the base's activations are quantised to 8 bits, the merged model's are not


def written(folder: Path, width: int, layers: int) -> Path:
    """A rank-4 adapter of the output projections, written without the base in memory."""
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["o_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    random, tensors = np.random.default_rng(5), {}
    for layer in range(layers):
        stem = f"base_model.model.model.layers.{layer}.self_attn.o_proj.lora_"
        tensors[f"{stem}A.weight"] = random.normal(0, 0.05, (4, width)).astype(np.float32)
        tensors[f"{stem}B.weight"] = random.normal(0, 0.05, (width, 4)).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def test_the_file_has_the_keys_and_shapes_that_llama_cpp_reads(base, tmp_path):
    source = base("qwen2")
    made = trained(source, tmp_path / "a", target_modules=["q_proj", "embed_tokens"], alpha_pattern={"q_proj": 3})
    result = aprnb.convert(made, tmp_path / "x.gguf", base=source)
    assert (result.source, result.format, result.tensors) == (made, "gguf", 2 * (3 + 1))
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    fields = {key: field.contents() for key, field in reader.fields.items()}
    assert fields["general.type"] == "adapter"
    assert fields["adapter.type"] == "lora"
    assert (fields["general.architecture"], fields["adapter.lora.alpha"]) == ("qwen2", 6.0)
    shapes = {tensor.name: tuple(tensor.data.shape) for tensor in reader.tensors}
    assert shapes["token_embd.weight.lora_a"] == (832, 4)
    assert shapes["token_embd.weight.lora_b"] == (64, 4)
    assert shapes["blk.0.attn_q.weight.lora_a"] == (4, 64)
    b = next(tensor.data for tensor in reader.tensors if tensor.name == "blk.0.attn_q.weight.lora_b")
    stored = load_file(made / "adapter_model.safetensors")[
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    ]
    np.testing.assert_allclose(b, stored * (3 / 6), rtol=1e-6)  # its alpha 3 in a file of alpha 6


NOT_EXPRESSED: dict[str, dict[str, Any]] = {
    "use_dora": {"use_dora": True},
    "new values of model.norm.weight": {"modules_to_save": ["model.norm"]},
    "new values of model.layers.0.self_attn.q_proj.bias": {"bias": "lora_only", "target_modules": ["q_proj"]},
    "new values of model.embed_tokens.weight": {"trainable_token_indices": [1]},
}


@pytest.mark.parametrize("message", NOT_EXPRESSED)
def test_what_such_a_file_cannot_express_is_rejected_with_a_way_that_works(base, tmp_path, message):
    source = base("qwen2")
    made = trained(source, tmp_path / "a", **NOT_EXPRESSED[message])
    with pytest.raises(OutputError, match=message) as caught:
        aprnb.convert(made, tmp_path / "x.gguf", base=source)
    assert not (tmp_path / "x.gguf").exists()
    assert "aprnb merge" in str(caught.value.action)
    merged, model = str(tmp_path / "x.apr"), str(tmp_path / "y.gguf")
    assert cli.main(["merge", str(source), str(made), "--output", merged]) == 0
    assert cli.main(["convert", merged, model]) == 0


def test_position_embeddings_take_no_adapter_in_llama_cpp(base, tmp_path):
    source = base("gpt2")
    made = trained(source, tmp_path / "a", target_modules=["wpe"])
    with pytest.raises(OutputError, match=r"adds no LoRA to transformer\.wpe\.weight"):
        aprnb.convert(made, tmp_path / "x.gguf", base=source)


def test_an_adapter_needs_its_base_and_a_target_in_gguf(base, tmp_path):
    source = base("qwen2")
    made = trained(source, tmp_path / "a", target_modules=["q_proj"])
    with pytest.raises(UsageProblem, match="is an adapter, not a model; expected --base"):
        aprnb.convert(made, tmp_path / "x.gguf")
    with pytest.raises(UsageProblem, match="cannot be converted to apr"):
        aprnb.convert(made, tmp_path / "x.apr", base=source)
    with pytest.raises(UsageProblem, match="is not an adapter"):
        aprnb.convert(source, tmp_path / "x.gguf", base=source)
    with pytest.raises(UsageProblem, match="--dtype q8 for an adapter; expected f32, f16, bf16"):
        aprnb.convert(made, tmp_path / "x.gguf", base=source, dtype="q8")
    (tmp_path / "x.gguf").write_bytes(b"precious")
    with pytest.raises(OutputExists):
        aprnb.convert(made, tmp_path / "x.gguf", base=source)
    assert (tmp_path / "x.gguf").read_bytes() == b"precious"


def test_the_adapter_of_another_base_is_rejected(base, tmp_path, pocket_qwen3):
    made = trained(base("qwen2"), tmp_path / "a", target_modules=["q_proj"])
    with pytest.raises(UsageProblem, match="merge it into the base that it was"):
        aprnb.convert(made, tmp_path / "x.gguf", base=pocket_qwen3)


def test_the_base_may_have_any_format(base, tmp_path):
    """The rows of a permuted base are described by its architecture, whatever the order in its file."""
    source = base("llama")
    made = trained(source, tmp_path / "a")
    aprnb.convert(source, tmp_path / "base.gguf")
    aprnb.convert(source, tmp_path / "base.apr")
    for number, one in enumerate((source, tmp_path / "base.gguf", tmp_path / "base.apr")):
        aprnb.convert(made, tmp_path / f"{number}.gguf", base=one)
    assert len({(tmp_path / f"{number}.gguf").read_bytes() for number in range(3)}) == 1


def test_every_family_with_a_graph_is_tried():
    assert {name for name, family in FAMILIES.items() if family.gguf.slug} == GRAPHS.keys()
