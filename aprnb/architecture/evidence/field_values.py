"""Checks the values of fields; lists the config keys that do not change the logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aprnb.architecture.families import FAMILIES
from aprnb.errors import ArchitectureError
from aprnb.formats.fields import FIELDS
from aprnb.formats.gguf.values import shortest
from aprnb.printable import short

MAX_LAYERS, MAX_BLOCKS = 1 << 10, 1 << 14
"""Layers, and layers × experts: several times those of the largest published model (126; 94 × 128)."""
_LARGEST = float(np.finfo(np.float32).max)

WITHOUT_EFFECT = frozenset(
    "architectures auto_map bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id torch_dtype dtype"
    " transformers_version _name_or_path name_or_path initializer_range use_cache cache_implementation"
    " attention_dropout hidden_dropout dropout resid_pdrop embd_pdrop attn_pdrop residual_dropout embedding_dropout"
    " summary_type summary_use_proj summary_activation summary_first_dropout summary_proj_to_labels"
    " router_aux_loss_coef output_router_logits router_jitter_noise pretraining_tp max_window_layers"
    " use_sliding_window sliding_window_pattern _sliding_window_pattern no_rope_layer_interval rope_parameters"
    " n_ctx n_positions task_specific_params id2label label2id problem_type output_attentions output_hidden_states"
    " return_dict is_decoder is_encoder_decoder add_cross_attention tie_encoder_decoder chunk_size_feed_forward"
    " attn_implementation _attn_implementation _attn_implementation_autoset torchscript use_bfloat16 hidden_activation"
    " gradient_checkpointing reorder_and_upcast_attn unsloth_version unsloth_fixed _commit_hash language"
    " mlp_type norm_type original_num_hidden_layers embd_layer_norm quantization_config num_nextn_predict_layers"
    " use_bidirectional_attention is_causal vocab_size_per_layer_input text_config vision_config".split()
)
"""Keys of published configs that do not change inference, or that only determine fields with rows of their own."""


def known_fields() -> tuple[str, ...]:
    """Every field of every family, the standard ones first."""
    names = ["model_type", *(name for family in FAMILIES.values() for name in family.fields)]
    return tuple(dict.fromkeys(names))


def checked(name: str, value: Any, where: str) -> Any:
    """`value` in the field's type; raises ArchitectureError for anything else."""
    field = FIELDS[name]
    if value is None and field.nullable:
        return None
    match field.kind:
        case "integer":
            return _integer(name, value, where)
        case "number":
            return _number(value, where)
        case "flag" if not isinstance(value, bool):
            raise ArchitectureError(f"{where} is {short(value)}", expected="true or false")
        case "name" if not isinstance(value, str):
            raise ArchitectureError(f"{where} is {short(value)}", expected="a name")
        case "list of names":
            return _list(str, value, where)
        case "list of integers":
            return _list(int, value, where)
        case "RoPE scaling":
            return scaling(value)
    return value


def _integer(name: str, value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 48:
        raise ArchitectureError(f"{where} is {short(value)}", expected="a positive integer")
    if name == "num_hidden_layers" and value > MAX_LAYERS:
        raise ArchitectureError(f"{where} is {value:,}", expected=f"at most {MAX_LAYERS:,}")
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ArchitectureError(f"{where} is {short(value)}", expected="a positive number")
    if value > _LARGEST or not (number := shortest(value)):
        raise ArchitectureError(f"{where} is {short(value)}", expected="a positive number that float32 can hold")
    return number


def _list(kind: type, value: Any, where: str) -> list[Any]:
    if not isinstance(value, list) or len(value) > MAX_LAYERS or not all(isinstance(one, kind) for one in value):
        raise ArchitectureError(f"{where} is {short(value)}", expected=f"a list of {kind.__name__}, one for each layer")
    return [int(one) if kind is int else one for one in value]


def scaling(rope: Any) -> dict[str, Any] | None:
    """RoPE scaling in one form: None for unscaled frequencies, else the object with its `rope_type`."""
    if not isinstance(rope, Mapping):
        raise ArchitectureError(f"rope_scaling is {short(rope)}", expected="an object or null")
    kept = {key: value for key, value in rope.items() if key not in ("rope_theta", "type", "partial_rotary_factor")}
    for key, value in kept.items():
        numbers = value if isinstance(value, list) else [value]
        if key.endswith("factor") and not all(type(one) in (int, float) for one in numbers) and value is not None:
            raise ArchitectureError(f"rope_scaling {key} is {short(value)}", expected="a number, or a list of them")
    kind = renamed(kept.get("rope_type", rope.get("type", "default")))
    if not isinstance(kind, str) or not kind:
        raise ArchitectureError(f"rope_scaling rope_type is {short(kind)}", expected="the name of a scaling type")
    return None if kind == "default" else {**kept, "rope_type": kind}


def renamed(kind: Any) -> Any:
    """A type of RoPE scaling under its present name: the first Phi-3 configs call longrope `su`."""
    return "longrope" if kind == "su" else kind
