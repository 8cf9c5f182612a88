"""Configs changed at random: computed as transformers does, or rejected; never silently wrong logits."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
import torch
import transformers

import aprnb
from aprnb.architecture import FAMILIES
from aprnb.model.build import build_model
from aprnb.model.device import place
from aprnb_tests import families

CASES = 30
IDS = torch.arange(2, 42)[None]
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4}
VALUES: dict[str, tuple[Any, ...]] = {
    "sliding_window": (None, 4, 8, 0, -1),
    "use_sliding_window": (True, False),
    "max_window_layers": (0, 1, 2),
    "layer_types": (["full_attention"] * 3, ["sliding_attention"] * 3, ["full_attention"], None),
    "attention_bias": (True, False, None),
    "mlp_bias": (True, False),
    "use_bias": (True, False),
    "hidden_act": ("silu", "gelu", "gelu_pytorch_tanh", "relu", None),
    "hidden_activation": ("gelu", "gelu_pytorch_tanh", None),
    "activation_function": ("gelu", "gelu_new", "relu"),
    "head_dim": (8, 16, 24, None),
    "num_attention_heads": (1, 2, 8),
    "num_key_value_heads": (1, 2, 4, None),
    "rms_norm_eps": (1e-5, 0.1),
    "norm_epsilon": (0.1,),
    "layer_norm_epsilon": (0.1,),
    "rope_theta": (100.0, 1e4, 5e5),
    "rope_parameters": (None, LINEAR, YARN, {"rope_theta": 500.0}, {"rope_type": "linear", "factor": 3.0}),
    "rope_scaling": (None, {**LINEAR, "factor": 2.0}, YARN, {"type": "linear", "factor": 2.0}),
    "rope_local_base_freq": (100.0, 1e4),
    "partial_rotary_factor": (0.25, 0.5, 1.0),
    "max_position_embeddings": (8, 16, 4096),
    "original_max_position_embeddings": (8, 16),
    "tie_word_embeddings": (True, False, None),
    "query_pre_attn_scalar": (1, 16, 256),
    "attn_logit_softcapping": (None, 0.5, 50.0),
    "final_logit_softcapping": (None, 0.5, 30.0),
    "attention_multiplier": (0.1, 1.0),
    "residual_multiplier": (0.1,),
    "embedding_multiplier": (5.0,),
    "logits_scaling": (8.0,),
    "num_experts_per_tok": (1, 3),
    "norm_topk_prob": (True, False),
    "decoder_sparse_step": (1, 2),
    "mlp_only_layers": ([0], []),
    "no_rope_layers": ([1, 0, 1], [1, 0], None),
    "no_rope_layer_interval": (1, 2),
    "scale_attn_weights": (True, False),
    "scale_attn_by_inverse_layer_idx": (True, False),
    "sliding_window_pattern": (2, 3),
    "vocab_size": (64,),
}


def mutated(config: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """One to three keys with other values or gone, mostly those that the config has."""
    config, stated = dict(config), sorted(VALUES.keys() & config.keys())
    for _ in range(rng.choice((1, 1, 2, 3))):
        key = rng.choice(stated if rng.random() < 0.7 else sorted(VALUES))
        if rng.random() < 0.15:
            config.pop(key, None)
        else:
            config[key] = rng.choice(VALUES[key])
    return config


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS, use_cache=False).logits


REASONS = (
    "according to .*, .* according to",  # two statements that disagree
    "sliding_window is (0|-1); expected a positive integer",
    "partial_rotary_factor is .* rotates whole heads",  # the class computes as if the key were absent
    "rope_parameters has .* the class uses no others",
    "rope_parameters of sliding_attention is .* expected a rope_theta of its own and no scaling",
)
"""Why a config that `transformers` computes is rejected; the number of those without a reason is zero."""


def ours(path):
    """Logits, or the error with which it is rejected."""
    try:
        with aprnb.open(path) as checkpoint:
            report = aprnb.check(checkpoint).raise_for_violations()
            return logits(build_model(checkpoint, report, place("cpu", "float32")))
    except aprnb.AprnbError as error:
        return error


def theirs(folder, family, attention):
    """Logits, or None where the class does not take the config, or not each tensor of the folder."""
    try:
        model, loading = getattr(transformers, family.class_name).from_pretrained(
            folder, dtype=torch.float32, attn_implementation=attention, output_loading_info=True
        )
        return None if loading["missing_keys"] or loading["unexpected_keys"] else logits(model)
    except Exception:  # whatever a class raises for values that it does not know
        return None


def converted(folder, target):
    try:
        return aprnb.convert(folder, target, force=True).path
    except aprnb.AprnbError:
        return None


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_changed_config_gives_the_logits_of_transformers_or_is_rejected(name, tmp_path):
    family, compared = FAMILIES[name], 0
    families.saved(name, tmp_path / "hf", 2)
    original = json.loads((tmp_path / "hf" / "config.json").read_text())
    (tmp_path / "there").mkdir()  # away from the config, which would be a sidecar file
    for number in range(CASES):
        rng = random.Random(f"{name}/{number}")
        config = mutated(original, rng)
        (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
        exact = "eager" if config.get("attn_logit_softcapping") else family.attention
        expected = theirs(tmp_path / "hf", family, exact)
        target = tmp_path / "there" / rng.choice(("x.apr", "folder", "x.gguf"))
        for path in (tmp_path / "hf", converted(tmp_path / "hf", target)):
            if path is None or expected is None:
                continue
            found = ours(path)
            if isinstance(found, aprnb.AprnbError):
                assert any(re.search(reason, str(found)) for reason in REASONS), f"case {number}, {config}: {found}"
            else:
                bound, said = 3e-5 * float(expected.abs().max()), f"case {number}, {path.name}: {config}"
                torch.testing.assert_close(found, expected, rtol=0, atol=bound, msg=said)
                compared += 1
    assert compared >= CASES // 4  # the rest is rejected, here or by transformers
