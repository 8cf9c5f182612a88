"""Untrusted adapters: what is not a plain LoRA of this base ends in one error, and nothing is written."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from registry import way
from safetensors.numpy import save_file
from safetensors.torch import load_file
from safetensors.torch import save_file as write_torch
from transformers import AutoModelForCausalLM

import aprnb
from aprnb import cli
from aprnb.adapters import LowRank, changes_of, files, read_adapter
from aprnb.adapters import config as adapter_config
from aprnb.adapters.files import RECORD_NAME
from aprnb.architecture.weights import read_weight
from aprnb.errors import AprnbError, CheckpointError, FileMissing, GateError, OutputError, TruncatedFile, UsageProblem
from aprnb.tuning.results.merge import merge
from aprnb_tests import families
from aprnb_tests import safetensors_bytes as s

TESTS = Path(__file__).parents[1]
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PLAIN: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
LAYER = "base_model.model.model.layers.0."
Q = LAYER + "self_attn.q_proj"
WIDTH, VOCABULARY = 64, 832  # of `families.saved`; the tokenizer has 827 tokens
Tensors = Mapping[str, np.ndarray]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def base_of(family: str, size: int, sources: Path, made: Path) -> Path:
    families.saved(family, made, size, vocabulary=VOCABULARY // size)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (made / name).write_bytes((sources / "qwen3" / name).read_bytes())
    return made


@pytest.fixture(scope="module")
def base(sources, tmp_path_factory) -> Path:
    """A Qwen2 of width 64 in float32, with a head of its own."""
    return base_of("qwen2", 1, sources, tmp_path_factory.mktemp("qwen2"))


@pytest.fixture(scope="module")
def tied(sources, tmp_path_factory) -> Path:
    """A Llama of width 128 whose head is its embedding."""
    return base_of("llama", 2, sources, tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def gpt2(sources, tmp_path_factory) -> Path:
    return base_of("gpt2", 1, sources, tmp_path_factory.mktemp("gpt2"))


def pair(
    stem: str = Q, a: tuple[int, ...] = (4, WIDTH), b: tuple[int, ...] = (WIDTH, 4), value: float = 0.01
) -> Tensors:
    return {
        f"{stem}.lora_A.weight": np.full(a, value, np.float32),
        f"{stem}.lora_B.weight": np.full(b, value, np.float32),
    }


def adapter(made: Path, config: Any = PLAIN, tensors: Tensors | None = None) -> Path:
    """A folder; `config` may be bytes that are not JSON."""
    made.mkdir()
    (made / CONFIG).write_bytes(config if isinstance(config, bytes) else json.dumps(config).encode())
    save_file(dict(pair() if tensors is None else tensors), made / WEIGHTS)
    return made


def rejected(base: Path, made: Path, kind: type[AprnbError], message: str) -> None:
    """The merge raises `kind` with `message`, and its folder stays empty."""
    out = made.with_name("out")
    out.mkdir()
    with pytest.raises(kind, match=message) as caught:
        merge(base, made, out / "merged.apr", output_dtype="F32")
    assert caught.value.exit_code > 0
    assert len(str(caught.value)) < 1000
    assert list(out.iterdir()) == []


def test_the_plain_adapter_of_these_tests_merges(base, tmp_path):
    assert merge(base, adapter(tmp_path / "a"), tmp_path / "m.apr", output_dtype="F32").changed == 1


NUMBERS = {
    "alpha NaN": b'{"peft_type": "LORA", "r": 4, "lora_alpha": NaN}',
    "alpha infinite": b'{"peft_type": "LORA", "r": 4, "lora_alpha": Infinity}',
    "alpha beyond double": b'{"peft_type": "LORA", "r": 4, "lora_alpha": 1e999}',
    "alpha of 5,000 digits": b'{"peft_type": "LORA", "r": 4, "lora_alpha": 1' + b"0" * 5000 + b"}",
    **{f"alpha {v!r}": {**PLAIN, "lora_alpha": v} for v in (1e300, -1e300, 10**400, "8", True, None, [8], {})},
    **{f"rank {v!r}": {**PLAIN, "r": v} for v in (0, -4, 4.0, True, 10**9, 10**400, "4", None, [4])},
    "no alpha": {"peft_type": "LORA", "r": 4},
    "no rank": {"peft_type": "LORA", "lora_alpha": 8},
}  # fmt: skip


@way("an adapter whose alpha or rank is not a usable number")
@pytest.mark.parametrize("config", NUMBERS.values(), ids=NUMBERS.keys())
def test_alpha_and_rank_are_finite_numbers(base, tmp_path, config):
    rejected(
        base, adapter(tmp_path / "a", config), (UsageProblem, CheckpointError), r"lora_alpha|\br\b|rank|not JSON|digits"
    )


SHAPES: dict[str, Tensors] = {
    "B of one number": pair(b=(1, 1)),
    "A of one number": pair(a=(1, 1)),
    "both of one number": pair(a=(1, 1), b=(1, 1)),
    "a row and a column of one": pair(a=(1, WIDTH), b=(WIDTH, 1)),
    "another rank than r": pair(a=(8, WIDTH), b=(WIDTH, 8)),
    "two ranks": pair(a=(4, WIDTH), b=(WIDTH, 3)),
    "turned": pair(a=(WIDTH, 4), b=(4, WIDTH)),
    "of a wider base": pair(a=(4, 2 * WIDTH), b=(2 * WIDTH, 4)),
    "of a narrower output": pair(b=(WIDTH // 2, 4)),
    "one output, which broadcasts": pair(b=(1, 4)),
    "one input, which broadcasts": pair(a=(4, 1)),
    "1-D": pair(a=(WIDTH,), b=(WIDTH,)),
    "3-D": pair(a=(1, 4, WIDTH), b=(1, WIDTH, 4)),
    "0-D": pair(a=(), b=()),
    "no rows": pair(a=(4, 0), b=(0, 4)),
    "rank 0": pair(a=(0, WIDTH), b=(WIDTH, 0)),
}


@way("adapter matrices of other shapes than the weight's")
@pytest.mark.parametrize("tensors", SHAPES.values(), ids=SHAPES.keys())
def test_shapes_are_exactly_those_of_the_weight(base, tmp_path, tensors):
    rejected(base, adapter(tmp_path / "a", PLAIN, tensors), UsageProblem, r"has model\.layers\.0\.self_attn\.q_proj")


def one_of(matrix: np.ndarray, value: float) -> np.ndarray:
    """The matrix with `value` at one place."""
    found = matrix.copy()
    found[1, 2] = value
    return found


VALUES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "NaN": lambda matrix: one_of(matrix, np.nan),
    "infinity": lambda matrix: one_of(matrix, -np.inf),
    "half NaN": lambda matrix: (matrix * np.nan).astype(np.float16),
    "int8": lambda matrix: np.ones(matrix.shape, np.int8),
    "int64": lambda matrix: np.ones(matrix.shape, np.int64),
    "bool": lambda matrix: np.ones(matrix.shape, np.bool_),
    "unsigned": lambda matrix: np.ones(matrix.shape, np.uint8),
}  # fmt: skip


@way("an adapter with values that are not finite floats")
@pytest.mark.parametrize("spoil", VALUES.values(), ids=VALUES.keys())
@pytest.mark.parametrize("which", ["lora_A", "lora_B"])
def test_values_are_finite_floats(base, tmp_path, spoil, which):
    tensors = {name: spoil(matrix) if which in name else matrix for name, matrix in pair().items()}
    rejected(
        base,
        adapter(tmp_path / "a", PLAIN, tensors),
        UsageProblem,
        "not finite numbers; expected finite floats|as [A-Z0-9]+; expected floats",
    )


def test_whole_numbers_are_not_called_infinite(base, tmp_path):
    tensors = {name: np.ones(matrix.shape, np.int8) for name, matrix in pair().items()}
    rejected(
        base, adapter(tmp_path / "a", PLAIN, tensors), UsageProblem, r"stores \S+lora_A.weight as I8; expected floats"
    )


@way("an adapter with values that are not finite floats")
@pytest.mark.parametrize("dtype", ["F8_E4M3", "F4", "U64", "COMPLEX", ""])
def test_a_dtype_that_no_matrix_has_is_rejected(base, tmp_path, dtype):
    made = adapter(tmp_path / "a")
    halves = {"lora_A": (4, WIDTH), "lora_B": (WIDTH, 4)}
    packed = s.packed({f"{Q}.{name}.weight": (dtype, shape, bytes(256)) for name, shape in halves.items()})
    (made / WEIGHTS).write_bytes(packed)
    rejected(base, made, AprnbError, r"F4|U64|COMPLEX|dtype|bytes|adapter is zero")


def overflowing() -> dict[str, tuple[Tensors, float]]:
    beyond_bf16 = 3.3953e38  # between BF16's largest number, 3.3895e38, and float32's, 3.4028e38
    opposite = dict(pair(value=1e25))
    opposite[f"{Q}.lora_A.weight"] = np.array([[1e25], [-1e25], [1e25], [-1e25]], np.float32).repeat(WIDTH, 1)
    return {
        "a product beyond float32": (pair(value=1e25), 8),
        "infinity less infinity": (opposite, 8),
        "a scale beyond float32": (pair(value=1e16), 2.0**32),
        "beyond BF16 alone": (pair(a=(4, WIDTH), value=(beyond_bf16 / 8) ** 0.5), 8),
    }


@way("an adapter that makes merged weights infinite")
@pytest.mark.parametrize("name", overflowing())
def test_merged_values_that_are_not_finite_are_not_written(base, tmp_path, name):
    tensors, alpha = overflowing()[name]
    made, out = adapter(tmp_path / "a", {**PLAIN, "lora_alpha": alpha}, tensors), tmp_path / "out"
    out.mkdir()
    with pytest.raises(OutputError, match=r"q_proj\.weight (would contain NaN or infinity|has values beyond)"):
        merge(base, made, out / "merged.apr", output_dtype="BF16")
    assert list(out.iterdir()) == []


@way("an adapter that makes merged weights infinite")
def test_values_beyond_f16_are_rejected_with_the_dtypes_that_hold_them(base, tmp_path):
    made = adapter(tmp_path / "a", PLAIN, pair(value=200))  # 4 · 200² · 8 / 4 = 320,000; F16 ends at 65,504
    with pytest.raises(OutputError, match="beyond the range of F16") as caught:
        merge(base, made, tmp_path / "merged.apr", output_dtype="F16")
    assert "BF16 or F32" in str(caught.value.action)


def peft_defaults() -> dict[str, Any]:
    """What PEFT writes for a LoRA without options, as JSON."""
    found = LoraConfig().to_dict()
    return {key: getattr(value, "value", value) for key, value in found.items()}


def test_every_default_of_the_installed_peft_is_accepted(tmp_path):
    config = {**peft_defaults(), "r": 4}
    assert read_adapter(adapter(tmp_path / "a", config)).config.values == config


NOT_PLAIN: dict[str, Any] = {
    "use_dora": True, "use_qalora": True, "lora_bias": True, "bias": "lora_only", "init_lora_weights": "pissa",
    "rank_pattern": {"q_proj": 8}, "modules_to_save": ["lm_head"], "megatron_config": {"x": 1},
    "alora_invocation_tokens": [5, 6], "layer_replication": [[0, 1], [0, 2]], "trainable_token_indices": [1],
    "use_bdlora": {"nblocks": 2}, "velora_config": {"x": 1}, "monteclora_config": {"x": 1}, "arrow_config": {"x": 1},
    "kasa_config": {"beta": 1e-4},
}  # fmt: skip
"""Keys that change the result; those that are honoured lack their tensors here."""
MORE: list[tuple[str, Any]] = [
    ("init_lora_weights", "olora"), ("init_lora_weights", "corda"), ("init_lora_weights", "lora_ga"),
    ("init_lora_weights", "pissa_niter_16"), ("init_lora_weights", "loftq"), ("init_lora_weights", 1),
    ("init_lora_weights", None), ("bias", "all"), ("bias", None), ("bias", False), ("use_rslora", 1),
    ("use_rslora", "true"), ("fan_in_fan_out", 1), ("fan_in_fan_out", None), ("use_dora", 1), ("use_dora", "false"),
    ("peft_type", "LOHA"), ("peft_type", "lora"), ("peft_type", ["LORA"]), ("peft_type", None), ("peft_type", 7),
    ("peft_type", "IA3"), ("peft_type", "ADALORA"), ("peft_type", "PROMPT_TUNING"), ("peft_type", "VERA"),
    ("a_key_of_tomorrow", True), ("a_key_of_tomorrow", 0.5), ("a_key_of_tomorrow", "x"), ("a_key_of_tomorrow", [0]),
    ("a_key_of_tomorrow", 0), ("", 1), ("\u202e\x1b[31m", 1), ("k" * 10_000, 1),
    ("modules_to_save", "lm_head"), ("modules_to_save", [1]), ("trainable_token_indices", [-1]),
    ("trainable_token_indices", "x"), ("trainable_token_indices", [1.0]), ("rank_pattern", ["q_proj"]),
    ("rank_pattern", {"q_proj": 0}), ("rank_pattern", {"q_proj": "4"}), ("alpha_pattern", {"q_proj": None}),
    ("alpha_pattern", {"q_proj": 1e300}), ("alpha_pattern", {"(": 1}), ("alpha_pattern", {"(a+)+": 1}),
    ("alpha_pattern", {"(a|b)*c": 1}), ("alpha_pattern", {"a.*b.*c.*d.*": 1}), ("alpha_pattern", {"a{1,9}": 1}),
    ("alpha_pattern", {"(?=a)": 1}), ("alpha_pattern", {r"(a)\1": 1}), ("alpha_pattern", {"x" * 257: 1}),
    ("alpha_pattern", {f"m{n}": 1 for n in range(5000)}),
]  # fmt: skip


@way("an adapter that is not a plain LoRA")
@pytest.mark.parametrize(("key", "value"), [*NOT_PLAIN.items(), *MORE], ids=lambda value: str(value)[:40])
def test_a_key_that_changes_the_result_is_rejected_by_that_key(base, tmp_path, key, value):
    made = adapter(tmp_path / "a", {**PLAIN, key: value})
    shown = {
        "k" * 10_000: "k" * 100,
        "\u202e\x1b[31m": "sets",
        "peft_type": "describes",
        "rank_pattern": "q_proj",
        "": "sets",
    }
    rejected(base, made, UsageProblem, re.escape(shown.get(key, key)))


@way("an adapter that is not a plain LoRA")
def test_every_key_of_the_installed_peft_is_decided(tmp_path):
    """Keys of a later PEFT are in here as soon as it is installed: unknown ones may only have an empty value."""
    known = {
        *adapter_config.DESCRIBING, *adapter_config.NUMBERS, *adapter_config.HONOURED, *adapter_config.LISTS,
        *adapter_config.PATTERNS, adapter_config.TOKENS,
    }  # fmt: skip
    keys = [key for key in peft_defaults() if key not in known]
    assert keys == [key for key in keys if key in NOT_PLAIN]  # each has its test
    for number, key in enumerate(keys):
        for value in (True, 1, "x", ["x"], {"x": 1}):
            with pytest.raises(UsageProblem, match=f"sets {key}"):
                read_adapter(adapter(tmp_path / f"{number}{type(value).__name__}", {**PLAIN, key: value}))


PLACES: dict[str, Tensors] = {
    "the embedding": pair("base_model.model.model.embed_tokens", b=(VOCABULARY, 4)),
    "matrices of an embedding on a linear layer": {
        f"{Q}.lora_embedding_A": np.ones((4, WIDTH), np.float32),
        f"{Q}.lora_embedding_B": np.ones((WIDTH, 4), np.float32),
    },
    "a norm": pair(LAYER + "input_layernorm"),
    "a layer that is not there": pair("base_model.model.model.layers.99.self_attn.q_proj"),
    "a module that is not there": pair(LAYER + "self_attn.qkv_proj"),
    "a layer that is spelt otherwise": pair("base_model.model.model.layers.00.self_attn.q_proj"),
    "a module that PEFT names in memory only": pair(Q + ".default"),
    "nothing": pair("base_model.model."),
    "another class's name": pair("base_model.model.layers.0.self_attn.q_proj"),
    "a path": pair("base_model.model.../../etc/passwd"),
}
NAMES: dict[str, Tensors] = {
    "no tensors": {},
    "A alone": {f"{Q}.lora_A.weight": np.ones((4, WIDTH), np.float32)},
    "A twice and no B": {
        f"{Q}.lora_A.weight": np.ones((4, WIDTH), np.float32),
        f"{LAYER}self_attn.o_proj.lora_A.weight": np.ones((4, WIDTH), np.float32),
    },
    "a name without PEFT's prefix": {**pair(), "x.lora_B.weight": np.ones((1, 1), np.float32)},
    "a magnitude, as DoRA has": {**pair(), f"{Q}.lora_magnitude_vector": np.ones(WIDTH, np.float32)},
    "a bias": {**pair(), f"{Q}.bias": np.ones(WIDTH, np.float32)},
    "a bias of B": {**pair(), f"{Q}.lora_B.bias": np.ones(WIDTH, np.float32)},
    "a whole norm": {**pair(), "base_model.model.model.norm.weight": np.ones(WIDTH, np.float32)},
    "a weight with matrices and whole": {**pair(), f"{Q}.base_layer.weight": np.ones((WIDTH, WIDTH), np.float32)},
    "a wrapped head without matrices": {
        **pair(),
        "base_model.model.lm_head.base_layer.weight": np.ones((VOCABULARY, WIDTH), np.float32),
    },
    "A as an embedding's, B as a layer's": {
        f"{Q}.lora_embedding_A": np.ones((4, WIDTH), np.float32),
        f"{Q}.lora_B.weight": np.ones((WIDTH, 4), np.float32),
    },
    "trained rows that no key lists": {
        **pair(),
        "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": np.ones((1, WIDTH), "f4"),
    },
    "several adapters": {**pair(), f"{Q}.lora_A.one.weight": np.ones((4, WIDTH), np.float32)},
    "a saved module": {**pair(), "base_model.model.lm_head.modules_to_save.weight": np.ones((2, 2), np.float32)},
    "A of one layer, B of another": {
        f"{Q}.lora_A.weight": np.ones((4, WIDTH), np.float32),
        f"{LAYER}self_attn.o_proj.lora_B.weight": np.ones((WIDTH, 4), np.float32),
    },
}


@way("an adapter on a tensor that cannot take one")
@pytest.mark.parametrize("tensors", PLACES.values(), ids=PLACES.keys())
def test_only_linear_layers_of_the_base_take_an_adapter(base, tmp_path, tensors):
    rejected(base, adapter(tmp_path / "a", PLAIN, tensors), UsageProblem, "changes |contains ")


@way("an adapter on a tensor that cannot take one")
@pytest.mark.parametrize("tensors", NAMES.values(), ids=NAMES.keys())
def test_only_pairs_of_a_and_b_are_taken(base, tmp_path, tensors):
    rejected(
        base,
        adapter(tmp_path / "a", PLAIN, tensors),
        UsageProblem,
        r"contains (no tensors|tensors that are not pairs|the tensor |a tensor with and)"
        r"|has (use_dora|lora_bias)|has \[1, 64\]|has lm_head.weight as \[2, 2\]",
    )


# PEFT ignores these names with a warning and merges nothing, so that merging with PEFT is no way out.
RENAMED = {
    "torch.compile": "base_model.model._orig_mod.model.layers.0.self_attn.q_proj",
    "FSDP": "base_model.model._fsdp_wrapped_module.model.layers.0.self_attn.q_proj",
    "DistributedDataParallel": "module." + Q,
    "no prefix": "model.layers.0.self_attn.q_proj",
    "half a prefix": "base_model.model.layers.0.self_attn.q_proj",
}


@pytest.mark.parametrize("stem", RENAMED.values(), ids=RENAMED.keys())
def test_names_of_other_trainers_are_an_error_whose_way_out_works(base, tmp_path, stem):
    made = adapter(tmp_path / "a", PLAIN, pair(stem))
    rejected(base, made, UsageProblem, r"(?s)q_proj.*→ name the tensors as PEFT does, base_model\.model\.MODULE")
    save_file(dict(pair("base_model.model." + "model.layers.0.self_attn.q_proj")), made / WEIGHTS)
    assert merge(base, made, tmp_path / "m.apr", output_dtype="F32").changed == 1


def test_names_of_diffusers_are_an_error_that_says_so(base, tmp_path):
    tensors = {name.replace("lora_A", "lora_down").replace("lora_B", "lora_up"): one for name, one in pair().items()}
    rejected(base, adapter(tmp_path / "a", PLAIN, tensors), UsageProblem, r"(?s)lora_down.*→ name the tensors as PEFT")


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_a_file_of_an_adapter_in_place_of_its_folder_gives_the_folder(base, tmp_path, name):
    made = adapter(tmp_path / "a")
    with pytest.raises(FileMissing, match=rf"(?s)no adapter folder .*→ give its folder: {re.escape(str(made))}$"):
        merge(base, made / name, tmp_path / "m.apr")


def test_the_folder_above_an_adapter_names_the_folders_in_it(base, tmp_path):
    (tmp_path / "run").mkdir()
    for number in (500, 1000):
        adapter(tmp_path / "run" / f"checkpoint-{number}")
    with pytest.raises(FileMissing, match=r"(?s)no adapter_config.json.*→ .*checkpoint-1000, checkpoint-500$"):
        merge(base, tmp_path / "run", tmp_path / "m.apr")


@pytest.mark.parametrize("stored", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float64])
def test_a_base_in_a_type_that_the_format_lacks_merges_into_f16(base, tmp_path, stored):
    narrow = shutil.copytree(base, tmp_path / "base")
    weights = {name: one.to(stored) for name, one in load_file(base / "model.safetensors").items()}
    write_torch(weights, narrow / "model.safetensors", {"format": "pt"})
    assert merge(narrow, adapter(tmp_path / "a", PLAIN, pair(value=0.1)), tmp_path / "m.apr").changed == 1
    with aprnb.open(tmp_path / "m.apr") as merged:
        found = merged["model.layers.0.self_attn.q_proj.weight"]
    before = weights["model.layers.0.self_attn.q_proj.weight"].float().numpy()
    np.testing.assert_allclose(found, before + 2 * 4 * 0.01, rtol=0, atol=2e-3)  # alpha / r = 2, four products of 0.01


@pytest.mark.parametrize("scale", [0.0, 0.5, 0.9, 1.1, 2.0, -1.0])
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_a_merge_at_another_scale_is_not_written(base, tmp_path, monkeypatch, scale, dtype):
    made, real = adapter(tmp_path / "a"), adapter_config.AdapterConfig.scale_of
    monkeypatch.setattr(adapter_config.AdapterConfig, "scale_of", lambda config, module: scale * real(config, module))
    with pytest.raises(GateError, match=r"differs from base \+ adapter by up to|changed no tensor"):
        merge(base, made, tmp_path / "m.apr", output_dtype=dtype)
    assert not (tmp_path / "m.apr").exists()


def test_a_value_that_is_written_wrongly_is_not_kept(base, tmp_path, monkeypatch):
    real = LowRank.__call__

    def spoilt(change, start, values):
        found = real(change, start, values)
        found[-1] += 1e-4
        return found

    monkeypatch.setattr(LowRank, "__call__", spoilt)
    with pytest.raises(GateError, match=r"model\.layers\.0\.self_attn\.q_proj\.weight differs .* by up to 0\.0001"):
        merge(base, adapter(tmp_path / "a"), tmp_path / "m.apr", output_dtype="F32")


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("value", [1e-6, 1e-4, 0.01, 3.0])
def test_no_size_of_an_adapter_is_taken_for_a_wrong_merge(base, tmp_path, dtype, value):
    generator = np.random.default_rng(0)
    tensors = {name: value * generator.standard_normal(one.shape, np.float32) for name, one in pair().items()}
    made = adapter(tmp_path / "a", PLAIN, tensors)
    try:
        assert merge(base, made, tmp_path / "m.apr", output_dtype=dtype).changed == 1
    except GateError as error:
        assert value < 0.01 and "changed no tensor" in str(error)


@pytest.mark.parametrize(("alpha", "value"), [(0, 0.01), (8, 0.0)])
@pytest.mark.parametrize("dtype", ["F32", "F16"])
def test_an_adapter_without_an_effect_is_not_sent_to_float32(base, tmp_path, alpha, value, dtype):
    made = adapter(tmp_path / "a", {**PLAIN, "lora_alpha": alpha}, pair(value=value))
    with pytest.raises(GateError, match=r"the adapter is zero \(.* 0\)\n→ train it, or use its base$"):
        merge(base, made, tmp_path / "m.apr", output_dtype=dtype)


def test_a_change_that_float32_does_not_show_is_not_sent_to_float32(base, tmp_path):
    made = adapter(tmp_path / "a", PLAIN, pair(value=1e-25))
    with pytest.raises(GateError, match=r"(?s)zero, or too small for F32\n→ train longer$"):
        merge(base, made, tmp_path / "m.apr", output_dtype="F32")
    with pytest.raises(GateError, match=r"(?s)too small for the output dtype\n→ train longer, or .*--output-dtype F32"):
        merge(base, made, tmp_path / "m.apr", output_dtype="F16")


@way("an adapter on a tensor that cannot take one")
def test_a_head_of_its_own_takes_an_adapter_and_a_tied_one_does_not(base, tied, tmp_path):
    own = adapter(tmp_path / "own", PLAIN, pair("base_model.model.lm_head", b=(VOCABULARY, 4)))
    assert merge(base, own, tmp_path / "own.apr", output_dtype="F32").changed == 1
    shared = pair("base_model.model.lm_head", (4, 2 * WIDTH), (VOCABULARY, 4))
    rejected(tied, adapter(tmp_path / "tied", PLAIN, shared), UsageProblem, r"changes lm_head\.weight")


@way("an adapter on a tensor that cannot take one")
def test_transposed_weights_are_accepted_for_transposed_layers_only(base, tmp_path):
    made = adapter(tmp_path / "a", {**PLAIN, "fan_in_fan_out": True})
    rejected(base, made, UsageProblem, r"sets fan_in_fan_out; expected false: this model's layers are \[out, in\]")


MALFORMED: dict[str, tuple[str, bytes]] = {
    "a config that is a list": (CONFIG, b"[1]"),
    "a config that is text": (CONFIG, b'"LORA"'),
    "an empty config": (CONFIG, b""),
    "a config that is not JSON": (CONFIG, b"{nope"),
    "a config of two documents": (CONFIG, json.dumps(PLAIN).encode() * 2),
    "a deep config": (CONFIG, b'{"a":' * 100_000),
    "a deep list": (CONFIG, b"[" * 200_000),
    "a key with two values": (CONFIG, json.dumps(PLAIN).encode()[:-1] + b', "r": 8}'),
    "a config that is not UTF-8": (CONFIG, json.dumps(PLAIN).encode()[:-1] + b', "revision": "\xff"}'),
    "a config in UTF-16 without a mark": (CONFIG, json.dumps(PLAIN).encode("utf-16-le")),
    "a config in UTF-32": (CONFIG, json.dumps(PLAIN).encode("utf-32")),
    "a config that git-lfs did not fetch": (CONFIG, s.LFS_POINTER),
    "weights that git-lfs did not fetch": (WEIGHTS, s.LFS_POINTER),
    "half of a surrogate pair": (CONFIG, json.dumps(PLAIN).encode()[:-1] + rb', "\ud800": null}'),
    "a config of 2 MB": (CONFIG, json.dumps({**PLAIN, "revision": "x" * (2 << 20)}).encode()),
    "a config of many values": (CONFIG, json.dumps({**PLAIN, "target_modules": [0] * 400_000}).encode()),
    "empty weights": (WEIGHTS, b""),
    "weights that are text": (WEIGHTS, b"xx"),
    "weights that are a pickle": (WEIGHTS, b"\x80\x04\x95" + bytes(1000)),
    "a header beyond the file": (WEIGHTS, (1 << 40).to_bytes(8, "little") + b"{}"),
    "a header that is a list": (WEIGHTS, s.file_of([1])),
    "a header that is not JSON": (WEIGHTS, s.file_of(b"{nope")),
    "payloads that overlap": (WEIGHTS, s.small_file(b=s.info("BF16", [2], 0, 4))),
    "a payload beyond the file": (WEIGHTS, s.small_file(b=s.info("BF16", [2000], 16, 4016))),
    "a size that is not the shape's": (WEIGHTS, s.small_file(a=s.info("F32", [2, 3], 0, 16))),
    "dimensions that overflow": (WEIGHTS, s.small_file(a=s.info("F32", [1 << 62, 1 << 62], 0, 16))),
    "a GGUF file": (WEIGHTS, b"GGUF" + bytes(1000)),
}  # fmt: skip


@way("an adapter folder with malformed files")
@pytest.mark.parametrize(("name", "data"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_files_are_named(base, tmp_path, name, data):
    made = adapter(tmp_path / "a")
    (made / name).write_bytes(data)
    rejected(
        base, made, (CheckpointError, UsageProblem), "adapter_" if name == CONFIG else "adapter_|contains the tensor"
    )


@way("an adapter folder with malformed files")
@pytest.mark.parametrize("kept", [0, 7, 8, 60, -64, -1])
def test_truncated_weights_are_named(base, tmp_path, kept):
    made = adapter(tmp_path / "a")
    data = (made / WEIGHTS).read_bytes()
    (made / WEIGHTS).write_bytes(data[:kept])
    rejected(base, made, CheckpointError, "adapter_model.safetensors")


@way("an adapter folder with malformed files")
def test_names_of_tensors_that_repeat_are_rejected(base, tmp_path):
    made = adapter(tmp_path / "a")
    header = json.dumps({name: s.info("F32", [4, WIDTH], 0, 1024) for name in ("x", "y")}).replace('"y"', '"x"')
    (made / WEIGHTS).write_bytes(s.file_of(header.encode(), bytes(1024)))
    rejected(base, made, CheckpointError, "adapter_model.safetensors")


@way("an adapter whose file claims more than its base could use")
def test_a_sparse_file_of_80_gb_is_rejected_before_it_is_read(base, tmp_path):
    made = adapter(tmp_path / "a")
    size = 40 << 30
    claims = {f"{Q}.lora_A.weight": s.info("F32", [4, size // 16], 0, size)}
    claims |= {f"{Q}.lora_B.weight": s.info("F32", [size // 16, 4], size, 2 * size)}
    header = s.file_of(claims)
    with (made / WEIGHTS).open("wb") as file:
        file.write(header)
        file.truncate(len(header) + 2 * size)
    rejected(base, made, CheckpointError, r"takes 85,\d+,\d+,\d+ bytes; expected at most")


def pipe(path: Path) -> None:
    os.mkfifo(path)


REPLACED: dict[str, tuple[Callable[[Path], object], type[AprnbError]]] = {
    "missing": (lambda path: None, FileMissing),
    "a pipe": (pipe, CheckpointError),
    "a directory": (Path.mkdir, CheckpointError),
    "a device": (lambda path: path.symlink_to("/dev/zero"), CheckpointError),
    "a link out of the folder": (lambda path: path.symlink_to(secret(path)), CheckpointError),
    "a link to itself": (lambda path: path.symlink_to(path), AprnbError),
    "a link that leads nowhere": (lambda path: path.symlink_to("nowhere"), AprnbError),
}  # fmt: skip


def secret(path: Path) -> Path:
    """A file outside the folder that would be taken if the link were followed."""
    found = path.parent.with_name("secret")
    found.mkdir()
    return adapter(found / "a") / path.name


@way("an adapter file that is a pipe, a device or a link out of the folder")
@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize(("replace", "kind"), REPLACED.values(), ids=REPLACED.keys())
def test_only_regular_files_of_the_folder_are_read(base, tmp_path, name, replace, kind):
    made = adapter(tmp_path / "a")
    (made / name).unlink()
    replace(made / name)
    rejected(base, made, kind, "adapter_")


@way("an adapter file that is a pipe, a device or a link out of the folder")
@pytest.mark.parametrize("replace", [pipe, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_the_record_of_the_base_is_a_regular_file_too(base, tmp_path, replace):
    made = adapter(tmp_path / "a")
    replace(made / RECORD_NAME)
    rejected(base, made, CheckpointError, RECORD_NAME)


@pytest.mark.parametrize("name", ["nowhere", "x" * 5000, "a\0b", "file", "file/below"])
def test_a_path_that_is_not_a_folder_is_missing(base, tmp_path, name):
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileMissing, match="no adapter folder at"):
        merge(base, tmp_path / name, tmp_path / "merged.apr")


SHRINKING = """
import sys
from pathlib import Path
import numpy as np
from aprnb.adapters import read_adapter
from aprnb.adapters.names import Key
made = Path(sys.argv[1])
adapter = read_adapter(made)
(made / "adapter_model.safetensors").write_bytes(b"")
[module] = {key.module for key in adapter.tensors}
assert all(np.allclose(adapter.tensors[Key(module, part)], 0.01) for part in "AB")
print("read")
"""


@way("an adapter that shrinks while it is used")
def test_an_adapter_that_shrinks_after_it_was_read_keeps_its_values(tmp_path):
    """Under a memory map the process would die of SIGBUS, which no test could report."""
    rank = 512  # pages beyond the first would be gone
    made = adapter(tmp_path / "a", {**PLAIN, "r": 4}, pair(a=(4, 4096), b=(4096, 4)))
    assert (made / WEIGHTS).stat().st_size > rank * 128
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    run = subprocess.run([sys.executable, "-c", SHRINKING, made], capture_output=True, text=True, env=environment)
    assert (run.returncode, run.stdout.strip()) == (0, "read"), run.stderr


@way("an adapter that shrinks while it is used")
def test_an_adapter_that_shrinks_while_it_is_read_is_named(base, tmp_path, monkeypatch):
    made, read = adapter(tmp_path / "a"), files.read_shard

    def shrinking(source: Any) -> Any:
        shard = read(source)
        os.truncate(made / WEIGHTS, 600)
        return shard

    monkeypatch.setattr(files, "read_shard", shrinking)
    rejected(base, made, TruncatedFile, "became shorter while open")


@pytest.mark.parametrize("spoilt", ["rank", "weights"])
def test_the_command_line_ends_with_the_kind_s_exit_code_and_writes_nothing(base, tmp_path, capsys, spoilt):
    made = adapter(tmp_path / "a", {**PLAIN, "r": 0} if spoilt == "rank" else PLAIN)
    if spoilt == "weights":
        (made / WEIGHTS).write_bytes(b"xx")
    code = cli.main(["merge", str(base), str(made), "-o", str(tmp_path / "m.apr"), "--json"])
    document = json.loads(capsys.readouterr().out)
    assert code == document["error"]["exit_code"] == {"rank": 2, "weights": 4}[spoilt]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def trained(source: Path, made: Path, dtype: torch.dtype, **options: Any) -> Path:
    """An adapter as PEFT saves it, its matrices random and in `dtype`."""
    settled = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", "target_modules": "all-linear", **options}
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(source), LoraConfig(**settled))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = (torch.randn_like(parameter) * 0.05).to(dtype)
    model.save_pretrained(made)
    return made


def merged_by_peft(source: Path, made: Path) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(source)
    return PeftModel.from_pretrained(model, made).merge_and_unload().state_dict()


@pytest.mark.parametrize("rank_stabilised", [False, True], ids=["LoRA", "rsLoRA"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_adapters_of_peft_in_every_float_type_merge_as_peft_merges_them(base, tmp_path, dtype, rank_stabilised):
    made = trained(base, tmp_path / "a", dtype, use_rslora=rank_stabilised)
    assert_merged_alike(base, made, tmp_path, changed=3 * 7)  # layers · linear modules


@pytest.mark.parametrize("stated", [False, True])
def test_turned_layers_merge_as_peft_merges_them(gpt2, tmp_path, stated):
    modules = ["c_attn", "c_fc", "c_proj"]
    made = trained(gpt2, tmp_path / "a", torch.float32, target_modules=modules, fan_in_fan_out=True)
    config = json.loads((made / CONFIG).read_text())
    (made / CONFIG).write_text(json.dumps({**config, "fan_in_fan_out": stated}))  # PEFT corrects it, as do we
    assert_merged_alike(gpt2, made, tmp_path, changed=3 * 4)  # layers · (two attention and two feed-forward matrices)


def assert_merged_alike(source: Path, made: Path, tmp_path: Path, changed: int) -> None:
    """Within a rounding or two of float32: PEFT multiplies before or after it scales."""
    wanted = merged_by_peft(source, made)
    merged = merge(source, made, tmp_path / "m.apr", output_dtype="F32")
    assert merged.changed == changed
    with aprnb.open(merged.path) as checkpoint:
        report = aprnb.check(checkpoint).raise_for_violations()
        for name in changes_of(read_adapter(made), report, checkpoint.__getitem__):
            found = read_weight(checkpoint, report, name)
            np.testing.assert_allclose(found, wanted[name].float().numpy(), rtol=0, atol=2e-6, err_msg=name)
