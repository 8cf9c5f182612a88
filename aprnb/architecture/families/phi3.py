"""Phi-3 and Phi-3.5/4-mini (dense): q, k and v in one matrix, gate and up in another; rotation may be partial.

`.apr` metadata does not contain window, rotated share and long-context factors: they must be given.
"""

from collections.abc import Mapping
from typing import Any

from aprnb.architecture.families import decoder
from aprnb.architecture.families.family import Family, GgufGraph, fields


def _from_class(_config: Mapping[str, Any]) -> dict[str, Any]:
    """Phi3Config rotates whole heads and assumes 4,096 original positions where a config does not state them."""
    return {"partial_rotary_factor": 1.0, "original_max_position_embeddings": 4096}


PHI3 = Family(
    model_type="phi3",
    class_name="Phi3ForCausalLM",
    config_name="Phi3Config",
    other_names=("phi4",),
    tensors=(
        *(decoder.EMBEDDING, decoder.INPUT_NORM),
        decoder.linear("self_attn.qkv_proj", "attn_qkv", "qkv_rows", "hidden_size"),
        decoder.linear("self_attn.o_proj", "attn_output", "hidden_size", decoder.Q_ROWS),
        decoder.MLP_NORM,
        decoder.linear("mlp.gate_up_proj", "ffn_up", "2*intermediate_size", "hidden_size"),
        decoder.linear("mlp.down_proj", "ffn_down", "hidden_size", "intermediate_size"),
        *(decoder.FINAL_NORM, decoder.HEAD),
    ),
    rules=(decoder.HEAD_DIM, decoder.NO_ATTENTION_BIAS, decoder.NO_MLP_BIAS, decoder.POSITIONS, decoder.SILU),
    fields=fields(more="partial_rotary_factor original_max_position_embeddings"),
    derive=_from_class,
    defaults=decoder.class_defaults(4096, eps=1e-5, sliding_window=None),
    gguf=GgufGraph("phi3", windowed=True, ignores_window=True, scales=("longrope",)),
)
