"""Every variant of LoRA that PEFT writes: merged as the installed PEFT merges it in float32, or rejected by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import aprnb
from aprnb import cli
from aprnb.adapters import changes_of, read_adapter
from aprnb.adapters.changes import LowRank, Normalised
from aprnb.adapters.targets import target_notes
from aprnb.architecture import expected_tensors
from aprnb.architecture.experts import from_module
from aprnb_tests import families

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Q, QD, ALL = ["q_proj"], ["q_proj", "down_proj"], "all-linear"
STACKS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
PATTERNS = {
    "rank_pattern": {"q_proj": 8, "^model.layers.1.mlp.up_proj": 2, r"layers\.[02]\.self_attn\.k_proj": 6},
    "alpha_pattern": {"q_proj": 4, r".*\.2\.mlp.*": 3, "(v_proj|o_proj)": 5},
}
UNTIED, TIED = 1, 2  # sizes of `families.saved`


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> Callable[[str, int], Path]:
    """`bases("qwen2", TIED)`: the folder of a tiny model in float32."""
    root = tmp_path_factory.mktemp("bases")

    def base(family: str, size: int) -> Path:
        made = root / f"{family}-{size}"
        if not made.exists():
            families.saved(family, made, size)
        return made

    return base


def loaded(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


def trained(base: Path, made: Path, **options: Any) -> Path:
    """An adapter as PEFT saves it, everything that it trains moved at random."""
    settled = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **options}
    torch.manual_seed(1)
    model = get_peft_model(loaded(base), LoraConfig(**settled))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data + torch.randn_like(parameter) * 0.05
    model.save_pretrained(made)
    return made


def merged(base: Path, made: Path) -> tuple[dict[str, np.ndarray], set[str]]:
    """Every weight of the base with the adapter in it, and the names of those that differ from the base's."""
    with aprnb.open(base) as checkpoint:
        report = aprnb.check(checkpoint).raise_for_violations()
        changes = changes_of(read_adapter(made), report, checkpoint.__getitem__)
        found, moved = {}, set()
        for name in expected_tensors(report.architecture):
            before = checkpoint[name].reshape(-1)
            found[name] = changes[name](0, before) if name in changes else before
            if (found[name] != before).any():
                moved.add(name)
    return found, moved


def notes(base: Path, made: Path) -> tuple[str, ...]:
    with aprnb.open(base) as checkpoint:
        report, adapter = aprnb.check(checkpoint), read_adapter(made)
        return target_notes(adapter, report, changes_of(adapter, report, checkpoint.__getitem__))


def assert_as_peft(base: Path, made: Path, moved: int) -> None:
    """Within a rounding or two of float32; `moved` weights differ from the base's."""
    wanted = PeftModel.from_pretrained(loaded(base), made).merge_and_unload().state_dict()
    found, names = merged(base, made)
    assert len(names) == moved
    for name, values in found.items():
        peft = from_module(wanted, name).float().numpy().reshape(-1)
        np.testing.assert_allclose(values, peft, rtol=0, atol=3e-6, err_msg=name)


# Family, size, options, and how many weights differ: three layers, one or seven linear modules each, and so on.
MERGED: dict[str, tuple[str, int, dict[str, Any], int]] = {
    "DoRA": ("qwen2", UNTIED, {"target_modules": QD, "use_dora": True}, 6),
    "rsLoRA": ("qwen2", UNTIED, {"target_modules": QD, "use_rslora": True}, 6),
    "patterns": ("qwen2", UNTIED, {"target_modules": ALL, **PATTERNS}, 21),
    "all three": ("qwen2", UNTIED, {"target_modules": ALL, "use_dora": True, "use_rslora": True, **PATTERNS}, 21),
    "embedding": ("qwen2", UNTIED, {"target_modules": ["q_proj", "embed_tokens"]}, 4),
    "DoRA of embedding and head": (
        "qwen2", UNTIED, {"target_modules": ["q_proj", "embed_tokens", "lm_head"], "use_dora": True}, 5,
    ),
    "saved modules": (
        "qwen2", UNTIED, {"target_modules": QD, "modules_to_save": ["lm_head", "embed_tokens", "norm"]}, 15,
    ),
    "a saved block": ("qwen2", UNTIED, {"target_modules": Q, "modules_to_save": ["layers.0.mlp"]}, 6),
    "a saved embedding that is tied": (
        "qwen2", TIED, {"target_modules": Q, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, 4,
    ),
    "all biases": ("qwen2", UNTIED, {"target_modules": Q, "bias": "all"}, 12),
    "biases of LoRA modules": ("qwen2", UNTIED, {"target_modules": Q, "bias": "lora_only"}, 6),
    "biases of B": ("qwen2", UNTIED, {"target_modules": Q, "lora_bias": True}, 6),
    "biases of both": ("qwen2", UNTIED, {"target_modules": Q, "lora_bias": True, "bias": "all"}, 12),
    "trained tokens": ("qwen2", UNTIED, {"target_modules": Q, "trainable_token_indices": [3, 1]}, 4),
    "trained tokens of a tied head": ("qwen2", TIED, {"target_modules": Q, "trainable_token_indices": [3, 1]}, 4),
    "trained tokens by module": (
        "qwen2", UNTIED, {"target_modules": Q, "trainable_token_indices": {"embed_tokens": [3, 1], "lm_head": [5]}}, 5,
    ),
    "gaussian start": ("qwen2", UNTIED, {"target_modules": QD, "init_lora_weights": "gaussian"}, 6),
    "EVA start": ("qwen2", UNTIED, {"target_modules": QD, "init_lora_weights": "eva"}, 6),
    "orthogonal start": ("qwen2", UNTIED, {"target_modules": QD, "init_lora_weights": "orthogonal"}, 6),
    "MiCA start": ("qwen2", UNTIED, {"target_modules": QD, "init_lora_weights": "mica"}, 6),
    "random start": ("qwen2", UNTIED, {"target_modules": QD, "init_lora_weights": False}, 6),
    "one layer": ("qwen2", UNTIED, {"target_modules": Q, "layers_to_transform": [1], "layers_pattern": "layers"}, 1),
    "excluded": ("qwen2", UNTIED, {"target_modules": Q, "exclude_modules": ["model.layers.0.self_attn.q_proj"]}, 2),
    "an expression": ("qwen2", UNTIED, {"target_modules": r".*\.[01]\.self_attn\.(q|v)_proj"}, 4),
    "Conv1D": ("gpt2", UNTIED, {"target_modules": ["c_attn", "c_fc", "c_proj"], "fan_in_fan_out": True}, 12),
    "DoRA of Conv1D": (
        "gpt2", UNTIED, {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True, "use_dora": True}, 6,
    ),
    "biases of Conv1D and norms": ("gpt2", UNTIED, {"target_modules": ["c_attn"], "bias": "all"}, 22),
    "positions": ("gpt2", UNTIED, {"target_modules": ["wpe"]}, 1),
    "both stacks": ("qwen3_moe", UNTIED, {"target_modules": [], "target_parameters": STACKS}, 2 * 4 * 3),
    "the lower stack": ("qwen3_moe", UNTIED, {"target_modules": Q, "target_parameters": STACKS[1:]}, 3 + 2 * 4),
    "the upper stack": (
        "mixtral", UNTIED,
        {"target_modules": Q, "target_parameters": STACKS[:1], "use_rslora": True,
         "alpha_pattern": {r".*\.gate_up_proj": 3}}, 3 + 3 * 4 * 2,
    ),
    "experts and router": ("mixtral", UNTIED, {"target_modules": ["w1", "w2", "w3", "gate"]}, 3 * (4 * 3 + 1)),
    "fused q, k, v": ("phi3", UNTIED, {"target_modules": ALL, "use_dora": True}, 12),
    "llama": ("llama", UNTIED, {"target_modules": ALL, "bias": "lora_only"}, 42),
    "gemma3": ("gemma3_text", UNTIED, {"target_modules": ALL}, 21),
    "starcoder2": ("starcoder2", UNTIED, {"target_modules": ALL, "bias": "lora_only"}, 36),
}  # fmt: skip


@pytest.mark.parametrize("name", MERGED)
def test_a_variant_merges_as_peft_merges_it(bases, tmp_path, name):
    family, size, options, moved = MERGED[name]
    base = bases(family, size)
    made = trained(base, tmp_path / "a", **options)
    assert_as_peft(base, made, moved)
    assert notes(base, made) == ()  # PEFT saved matrices for every layer that its config targets, and no others


REJECTED: dict[str, tuple[str, int, dict[str, Any], str]] = {
    "PiSSA": ("qwen2", UNTIED, {"target_modules": Q, "init_lora_weights": "pissa"}, "sets init_lora_weights 'pissa'"),
    "OLoRA": ("qwen2", UNTIED, {"target_modules": Q, "init_lora_weights": "olora"}, "sets init_lora_weights 'olora'"),
    "activated": ("qwen2", UNTIED, {"target_modules": Q, "alora_invocation_tokens": [5, 6]}, "sets alora_invo"),
    "replicated layers": ("llama", UNTIED, {"target_modules": Q, "layer_replication": [[0, 2], [1, 3]]}, "sets layer"),
    "a bias of B without one": ("qwen2", UNTIED, {"target_modules": ["down_proj"], "lora_bias": True}, "has lora_bias"),
    "LoRA of a tied embedding": ("qwen2", TIED, {"target_modules": ["embed_tokens"]}, "embed_tokens.weight by LoRA"),
    "LoRA of a tied wte": ("gpt2", UNTIED, {"target_modules": ["wte"]}, "wte.weight by LoRA"),
    "a tied embedding alone": ("qwen2", TIED, {"target_modules": Q, "modules_to_save": ["embed_tokens"]}, "alone"),
    "LoRA of a tied head": ("qwen2", TIED, {"target_modules": ["lm_head"]}, "changes lm_head.weight"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "size", "target"),
    [
        ("qwen2", TIED, "embed_tokens"),
        ("qwen2", TIED, "lm_head"),
        ("gpt2", UNTIED, "wte"),
        ("qwen2", UNTIED, "resized"),
    ],
)
def test_the_advised_code_gives_the_logits_of_base_and_adapter(bases, tmp_path, family, size, target):
    """PEFT's own merge of a tied embedding changes the head as well, without a word."""
    base, made = bases(family, size), tmp_path / "a"
    model = loaded(base)
    if target == "resized":
        model.resize_token_embeddings(model.config.vocab_size + 7)
        options = {"target_modules": Q, "modules_to_save": ["embed_tokens", "lm_head"]}
    else:
        options = {"target_modules": [target]}
    torch.manual_seed(1)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **options))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data + torch.randn_like(parameter) * 0.05
    model.save_pretrained(made)
    with pytest.raises(aprnb.errors.UsageProblem) as caught:
        aprnb.merge(base, made, tmp_path / "m.apr")
    names = {"base": base, "adapter": made, "folder": tmp_path / "untied", "torch": torch, "PeftModel": PeftModel}
    names["AutoModelForCausalLM"] = AutoModelForCausalLM
    for code in re.findall("`(.+?)`", caught.value.action):
        exec(code, names)
    aprnb.convert(tmp_path / "untied", tmp_path / "m.apr")
    aprnb.convert(tmp_path / "m.apr", tmp_path / "again")
    ours = loaded(tmp_path / "again")
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        assert torch.allclose(ours(input_ids=ids).logits, model.eval()(input_ids=ids).logits, atol=2e-4)


@pytest.mark.parametrize("name", REJECTED)
def test_what_cannot_be_merged_is_rejected_by_name(bases, tmp_path, name, capsys):
    family, size, options, message = REJECTED[name]
    base = bases(family, size)
    made = trained(base, tmp_path / "a", **options)
    assert cli.main(["merge", str(base), str(made), "-o", str(tmp_path / "m.apr"), "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert message in error["message"]
    assert not (tmp_path / "m.apr").exists()


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_an_adapter_that_peft_converted_to_a_plain_lora_merges(bases, tmp_path, start):
    """The way out of the error: save the start, then both together with `path_initial_model_for_weight_conversion`."""
    base = bases("qwen2", UNTIED)
    options = {"r": 4, "lora_alpha": 8, "target_modules": QD, "task_type": "CAUSAL_LM", "init_lora_weights": start}
    model = get_peft_model(loaded(base), LoraConfig(**options))
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "start")
    model.peft_config["default"].init_lora_weights = start
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data + torch.randn_like(parameter) * 0.02
    model.save_pretrained(tmp_path / "a", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    wanted = model.merge_and_unload().state_dict()
    found, moved = merged(base, tmp_path / "a")
    assert len(moved) == 6
    for name, values in found.items():
        np.testing.assert_allclose(values, wanted[name].numpy().reshape(-1), rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
def test_adapters_of_single_experts_merge_as_peft_merges_them(bases, tmp_path, family):
    """As PEFT with transformers 4 saved them: a pair for each expert's matrix."""
    base, made = bases(family, UNTIED), tmp_path / "a"
    made.mkdir()
    parts = ["w1", "w3", "w2"] if family == "mixtral" else ["gate_proj", "up_proj", "down_proj"]
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 6, "target_modules": parts}
    (made / CONFIG).write_text(json.dumps(config))
    torch.manual_seed(4)
    with aprnb.open(base) as checkpoint:
        experts = {
            name: one.shape for name, one in expected_tensors(checkpoint.architecture).items() if one.rule.per_expert
        }
    tensors = {}
    for name, (rows, columns) in experts.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}.lora_"
        tensors |= {f"{stem}A.weight": torch.randn(2, columns) * 0.1, f"{stem}B.weight": torch.randn(rows, 2) * 0.1}
    save_file(tensors, made / WEIGHTS)
    assert_as_peft(base, made, len(experts))


def renamed(made: Path, change: Callable[[str], str]) -> None:
    save_file({change(name): one for name, one in load_file(made / WEIGHTS).items()}, made / WEIGHTS)


def test_names_with_the_adapters_own_name_in_them_are_read(bases, tmp_path):
    base = bases("qwen2", UNTIED)
    made = trained(base, tmp_path / "a", target_modules=["q_proj", "embed_tokens"], use_dora=True)
    plain, _ = merged(base, made)
    renamed(
        made, lambda name: name.replace("lora_A.weight", "lora_A.default.weight").replace("lora_B.", "lora_B.default.")
    )
    found, _ = merged(base, made)
    assert all((found[name] == values).all() for name, values in plain.items())


def test_an_adapter_in_several_files_is_read_as_one(bases, tmp_path):
    base = bases("qwen2", UNTIED)
    made = trained(base, tmp_path / "a", target_modules=QD)
    plain, _ = merged(base, made)
    tensors = load_file(made / WEIGHTS)
    files = {name: f"adapter_model-0000{1 + n % 2}-of-00002.safetensors" for n, name in enumerate(sorted(tensors))}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in tensors if files[name] == file}, made / file)
    (made / WEIGHTS).unlink()
    (made / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": files}))
    found, _ = merged(base, made)
    assert all((found[name] == values).all() for name, values in plain.items())
    (made / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {**files, "x": next(iter(files.values()))}}))
    with pytest.raises(aprnb.errors.CheckpointError, match="'x' is not in the file"):
        read_adapter(made)


def test_embeddings_that_were_saved_along_are_the_bases(bases, tmp_path):
    base = bases("qwen2", UNTIED)
    model = get_peft_model(loaded(base), LoraConfig(r=4, target_modules=Q, task_type="CAUSAL_LM"))
    model.save_pretrained(tmp_path / "a", save_embedding_layers=True)
    assert "base_model.model.lm_head.weight" in load_file(tmp_path / "a" / WEIGHTS)
    assert merged(base, tmp_path / "a")[1] == set()  # nothing was trained


def test_a_resized_vocabulary_is_rejected_with_the_shapes(bases, tmp_path):
    base = bases("qwen2", UNTIED)
    model = loaded(base)
    model.resize_token_embeddings(160)
    get_peft_model(model, LoraConfig(r=4, target_modules=Q, task_type="CAUSAL_LM")).save_pretrained(
        tmp_path / "a", save_embedding_layers=True
    )
    with pytest.raises(aprnb.errors.UsageProblem, match=r"has .*weight as \[160, 64\]; expected \[128, 64\]"):
        merged(base, tmp_path / "a")


def test_half_of_a_module_that_was_saved_is_missing(bases, tmp_path):
    base = bases("qwen2", UNTIED)
    made = trained(base, tmp_path / "a", target_modules=Q, modules_to_save=["layers.0.mlp"])
    save_file({name: one for name, one in load_file(made / WEIGHTS).items() if "up_proj" not in name}, made / WEIGHTS)
    with pytest.raises(aprnb.errors.UsageProblem, match=r"says modules_to_save layers\.0\.mlp and does not contain"):
        merged(base, made)


def test_a_pickle_is_never_opened_and_its_error_gives_a_way_that_works(bases, tmp_path, monkeypatch):
    base = bases("qwen2", UNTIED)
    made = trained(base, tmp_path / "a", target_modules=QD)
    plain, _ = merged(base, made)
    torch.save(load_file(made / WEIGHTS), made / "adapter_model.bin")
    (made / WEIGHTS).unlink()
    with pytest.raises(aprnb.errors.UnsupportedFormat, match="a Python pickle, which is never opened") as caught:
        read_adapter(made)
    monkeypatch.chdir(made)
    import safetensors.torch

    advised = str(caught.value.action).split("`")[1]
    eval(advised, {"safetensors": safetensors, "torch": torch})  # what a person would type
    found, _ = merged(base, made)
    assert all((found[name] == values).all() for name, values in plain.items())


def test_an_adapter_of_mlx_lm_is_named(tmp_path):
    """As `mlx_lm.lora` writes it: adapters.safetensors, and a config with keys of its own."""
    config = {"fine_tune_type": "lora", "num_layers": 16, "lora_parameters": {"rank": 8, "scale": 20.0, "dropout": 0.0}}
    (tmp_path / CONFIG).write_text(json.dumps(config))
    save_file({"model.layers.0.self_attn.q_proj.lora_a": torch.ones(4, 2)}, tmp_path / "adapters.safetensors")
    with pytest.raises(aprnb.errors.UsageProblem, match=r"of mlx-lm; expected a PEFT adapter\n→ run `mlx_lm.fuse"):
        read_adapter(tmp_path)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("part", [1, 7, 64, 100, 1000])
def test_parts_of_any_size_give_the_same_values(part, turned):
    """Parts begin and end inside rows; DoRA needs the norm of whole rows, or of whole columns."""
    random = np.random.default_rng(2)
    base = random.normal(size=(24, 40)).astype(np.float32)
    change = LowRank(*(random.normal(size=shape).astype(np.float32) for shape in ((24, 3), (3, 40))), 0.5)
    magnitude = random.normal(size=40 if turned else 24).astype(np.float32)
    dora = Normalised(change, magnitude, 0 if turned else 1, lambda: base.reshape(-1))
    flat = base.reshape(-1)
    found = np.concatenate([dora(start, flat[start : start + part]) for start in range(0, flat.size, part)])
    whole = base + 0.5 * (change.left @ change.right)
    norm = np.linalg.norm(whole, axis=dora.axis, keepdims=True)
    wanted = whole / norm * (magnitude[None] if turned else magnitude[:, None])
    np.testing.assert_allclose(found.reshape(24, 40), wanted, rtol=2e-6, atol=1e-6)
