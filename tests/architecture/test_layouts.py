"""Files whose tensors have another layout than the model: older names, fused, transposed and stacked matrices."""

from __future__ import annotations

import json

import numpy as np
import pytest

import aprnb
from aprnb.architecture.weights import read_weight
from aprnb.formats import TensorSource, write_apr
from aprnb.formats.dtypes import BY_NAME
from aprnb_tests import families

F32 = BY_NAME["F32"]


def written(path, checkpoint, tensors, **changes):
    """A copy of `checkpoint` with these arrays for tensors and changed metadata (None takes a key away)."""
    metadata = {key: value for key, value in {**checkpoint.metadata, **changes}.items() if value is not None}
    metadata.pop("tensor_shapes", None)
    sources = [TensorSource(name, F32, array.shape, lambda a=array: a.tobytes()) for name, array in tensors.items()]
    write_apr(path, metadata, sources, force=True)
    return aprnb.open(path)


def arrays(checkpoint):
    return {name: np.ascontiguousarray(checkpoint[name]) for name, e in checkpoint.tensors.items() if e.size_bytes}


def weights(checkpoint):
    report = aprnb.check(checkpoint).raise_for_violations()
    return {name: read_weight(checkpoint, report, name) for name in report.weights}


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_names_without_model_in_front_are_read(pocket_qwen3, tmp_path):
    base = aprnb.open(pocket_qwen3)
    bare = {name.removeprefix("model."): array for name, array in arrays(base).items()}
    same(weights(written(tmp_path / "x.apr", base, bare)), weights(base))


def test_a_fused_qkv_is_read_as_its_rows(real, tmp_path):
    base = aprnb.open(real("pocket-qwen2"))
    fused = {name: array for name, array in arrays(base).items() if not any(f"{p}_proj" in name for p in "qkv")}
    for layer in range(2):
        start = f"model.layers.{layer}.self_attn."
        for kind in ("weight", "bias"):
            fused[f"{start}qkv_proj.{kind}"] = np.concatenate([base[f"{start}{part}_proj.{kind}"] for part in "qkv"])
    checkpoint = written(tmp_path / "x.apr", base, fused)
    same(weights(checkpoint), weights(base))
    assert aprnb.check(checkpoint).parameters == aprnb.check(base).parameters


def test_a_fused_qkv_of_the_wrong_height_is_a_violation(real, tmp_path):
    base = aprnb.open(real("pocket-qwen2"))
    spoiled = {name: array for name, array in arrays(base).items() if "layers.1.self_attn.k_proj" not in name}
    spoiled["model.layers.1.self_attn.qkv_proj.weight"] = np.zeros((100, 256), np.float32)
    report = aprnb.check(written(tmp_path / "x.apr", base, spoiled))
    assert any(v.kind == "shape" and "qkv_proj" in v.tensor for v in report.violations)


def test_projections_of_the_cuda_trainer_are_transposed_and_those_of_the_cpu_trainer_are_not(pocket_qwen3, tmp_path):
    base = aprnb.open(pocket_qwen3)
    turned = {
        name: np.ascontiguousarray(array.T).reshape(array.shape) if name.endswith("_proj.weight") else array
        for name, array in arrays(base).items()
    }
    trained = written(tmp_path / "x.apr", base, turned, format="entrenar-checkpoint", tied_embeddings=None)
    same(weights(trained), weights(base))
    config = {
        "model_type": "qwen3", "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "rope_theta": 1e6, "rms_norm_eps": 1e-6, "max_position_embeddings": 512,
    }  # fmt: skip
    bare = {"architecture": "qwen3", "format": "entrenar-checkpoint"}
    write_apr(tmp_path / "y.apr", bare, [TensorSource(n, F32, a.shape, lambda a=a: a.tobytes())
                                          for n, a in arrays(base).items()])  # fmt: skip
    cpu = aprnb.open(tmp_path / "y.apr")
    report = aprnb.check(cpu, config=config).raise_for_violations()
    same({name: read_weight(cpu, report, name) for name in report.weights}, weights(base))


def test_a_trainers_config_text_and_its_state_are_understood(pocket_qwen3, tmp_path):
    base = aprnb.open(pocket_qwen3)
    state = {"__training__.lm_head_optimizer.m": np.zeros(4, np.float32)}
    text = json.dumps({"rope_theta": 1e6, "rms_norm_eps": 1e-6, "num_attention_heads": 4, "num_key_value_heads": 2})
    checkpoint = written(
        tmp_path / "x.apr", base, arrays(base) | state, model_config=text, rope_theta=None, rms_norm_eps=None
    )
    report = aprnb.check(checkpoint)
    assert report.ok
    assert report.architecture.sources["rope_theta"] == "metadata model_config rope_theta"
    assert any(warning.startswith("1 tensors hold a training state") for warning in report.architecture.warnings)


def test_shapes_in_ggufs_order_are_turned_and_bytes_are_not(pocket_qwen3, tmp_path):
    base = aprnb.open(pocket_qwen3)
    turned = {name: array.reshape(array.shape[::-1]) for name, array in arrays(base).items()}
    checkpoint = written(tmp_path / "x.apr", base, turned)
    same(weights(checkpoint), weights(base))
    assert any("GGUF's order" in warning for warning in checkpoint.architecture.warnings)


@pytest.mark.parametrize("order", ["outermost first", "as GGUF lists them"])
@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
def test_stacked_experts_are_read_one_by_one(family, order, tmp_path):
    families.saved(family, tmp_path / "hf")
    base = aprnb.open(tmp_path / "hf")
    architecture = base.architecture
    stacked = {}
    for name, array in arrays(base).items():
        rule = next((r for r in architecture.family.tensors if r.per_expert and r.name.split("{expert}.")[1] in name
                     and ".experts." in name), None)  # fmt: skip
        if rule is None:
            stacked[name] = array
        else:
            stacked.setdefault(rule.gguf.format(layer=name.split(".")[2]), []).append(array)
    joined = {name: np.stack(array) if isinstance(array, list) else array for name, array in stacked.items()}
    if order != "outermost first":
        joined = {name: a.reshape(a.shape[::-1]) if a.ndim == 3 else a for name, a in joined.items()}
    same(weights(written(tmp_path / "x.apr", base, joined)), weights(base))


def test_gemmas_norms_in_gguf_files_hold_one_more(tmp_path):
    families.saved("gemma2", tmp_path / "hf")
    base = aprnb.open(tmp_path / "hf")
    table = {rule.name: rule for rule in base.architecture.family.tensors}
    renamed = {}
    for name, array in arrays(base).items():
        layer = name.split(".")[2] if ".layers." in name else ""
        rule = table[name.replace(f".{layer}.", ".{layer}.") if layer else name]
        renamed[rule.gguf.format(layer=layer)] = array + (1 if rule.role == "norm" else 0)
    found, expected = weights(written(tmp_path / "x.apr", base, renamed)), weights(base)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)


def test_an_adapter_is_an_error_that_names_it(pocket_qwen3, tmp_path):
    base = aprnb.open(pocket_qwen3)
    matrices = {"lora.0.q_proj.lora_a": np.zeros((2, 8), np.float32), "lora.0.q_proj.lora_b": np.zeros((8, 2), "f4")}
    with pytest.raises(aprnb.AprnbError, match="2 LoRA matrices: an adapter, not a model"):
        aprnb.check(written(tmp_path / "x.apr", base, matrices))


def test_a_hybrid_under_a_dense_models_name_is_rejected(pocket_qwen3, tmp_path):
    base = aprnb.open(pocket_qwen3)
    hybrid = arrays(base) | {"model.layers.1.linear_attn.A_log": np.zeros(4, np.float32)}
    with pytest.raises(aprnb.AprnbError, match="hybrid of linear and full attention"):
        aprnb.check(written(tmp_path / "x.apr", base, hybrid))


def test_an_unknown_config_key_is_a_warning(tmp_path):
    families.saved("llama", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"logit_temperature": 2.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert any("logit_temperature is unknown" in warning for warning in aprnb.open(tmp_path).architecture.warnings)
