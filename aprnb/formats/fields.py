"""The fields of an architecture, one row each: its kind and the keys that state it in each format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Kind = Literal["integer", "number", "flag", "name", "list of names", "list of integers", "RoPE scaling"]

INTERLEAVED, SPLIT_HALVES = 0, 2
"""Values of `rope_type` in `.apr` metadata: which elements of a head are rotated together."""

LAYER_NORM_EPSILON = "attention.layer_norm_epsilon"
"""The GGUF key of `rms_norm_eps` for a graph with LayerNorm."""
SLIDING_WINDOW, ROTATED_SIZE = "attention.sliding_window", "rope.dimension_count"
"""GGUF keys of the window (0: none) and of the elements of a head that are rotated."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field, named as in most Hugging Face configs. `nullable`: null is a valid value and means that there is none.

    `apr` is its key in `.apr` metadata and `apr_aliases` are other spellings that writers have used. `gguf` are its
    keys in GGUF, below the architecture's name: all are written, the first is read. `config` are the keys of Hugging
    Face configs that state it, where its name is not the only one.
    """

    name: str
    kind: Kind
    nullable: bool = False
    apr: str | None = None
    apr_aliases: tuple[str, ...] = ()
    gguf: tuple[str, ...] = ()
    config: tuple[str, ...] = ()

    @property
    def gguf_type(self) -> str | None:
        """The type of its GGUF keys; None for a key that is read and never written."""
        return {"integer": "uint32", "number": "float32"}.get(self.kind)


_COMMON = (
    Field(
        "hidden_size", "integer", apr="hidden_size", apr_aliases=("hidden_dim", "d_model", "n_embd"),
        gguf=("embedding_length",), config=("hidden_size", "n_embd", "d_model"),
    ),
    Field(
        "num_hidden_layers", "integer", apr="num_layers", apr_aliases=("num_hidden_layers", "n_layers", "n_layer"),
        gguf=("block_count",), config=("num_hidden_layers", "n_layer", "num_layers"),
    ),
    Field(
        "num_attention_heads", "integer", apr="num_heads", apr_aliases=("num_attention_heads", "n_heads", "n_head"),
        gguf=("attention.head_count",), config=("num_attention_heads", "n_head", "num_heads"),
    ),
    Field(
        "num_key_value_heads", "integer", apr="num_kv_heads", apr_aliases=("num_key_value_heads", "n_kv_heads"),
        gguf=("attention.head_count_kv",),
    ),
    Field("head_dim", "integer", apr="head_dim", gguf=("attention.key_length", "attention.value_length")),
    Field(
        "intermediate_size", "integer", apr="intermediate_size",
        apr_aliases=("ffn_dim", "intermediate_dim", "n_inner"), gguf=("feed_forward_length",),
        config=("intermediate_size", "n_inner", "ffn_dim"),
    ),
    Field("vocab_size", "integer", apr="vocab_size", apr_aliases=("n_vocab",), gguf=("vocab_size",)),
    Field(
        "max_position_embeddings", "integer", apr="max_position_embeddings",
        apr_aliases=("max_seq_len", "context_length", "n_ctx"), gguf=("context_length",),
        config=("max_position_embeddings", "n_positions", "n_ctx"),
    ),
    Field("rope_theta", "number", apr="rope_theta", gguf=("rope.freq_base",)),
    Field(
        "rms_norm_eps", "number", apr="rms_norm_eps", apr_aliases=("layer_norm_eps", "norm_eps", "eps"),
        gguf=("attention.layer_norm_rms_epsilon",),
        config=("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps", "norm_epsilon"),
    ),
    Field("tie_word_embeddings", "flag"),
    Field("attention_bias", "flag"),
    Field("mlp_bias", "flag"),
    Field("sliding_window", "integer", nullable=True),
    Field("rope_scaling", "RoPE scaling", nullable=True),
    Field("hidden_act", "name"),
)  # fmt: skip
_OF_SOME = (
    Field("model_type", "name"),
    Field("attn_logit_softcapping", "number", nullable=True, gguf=("attn_logit_softcapping",)),
    Field("final_logit_softcapping", "number", nullable=True, gguf=("final_logit_softcapping",)),
    Field(
        "num_experts", "integer", apr="num_experts", gguf=("expert_count",),
        config=("num_local_experts", "num_experts", "n_routed_experts"),
    ),
    Field("num_experts_per_tok", "integer", apr="num_experts_per_tok", gguf=("expert_used_count",)),
    Field("moe_intermediate_size", "integer", apr="moe_intermediate_size", gguf=("expert_feed_forward_length",)),
    Field("norm_topk_prob", "flag", gguf=("expert_weights_norm",)),
    Field("decoder_sparse_step", "integer"),
    Field("mlp_only_layers", "list of integers"),
    Field("logits_scaling", "number", gguf=("logit_scale",)),
    Field("residual_multiplier", "number", gguf=("residual_scale",)),
    Field("embedding_multiplier", "number", gguf=("embedding_scale",)),
    Field("attention_multiplier", "number", gguf=("attention.scale",)),
    Field("rope_local_base_freq", "number", gguf=("rope.freq_base_swa",)),
    Field("partial_rotary_factor", "number"),
    Field("original_max_position_embeddings", "integer"),
    Field("query_pre_attn_scalar", "integer"),
    Field("layer_types", "list of names", nullable=True),
    Field("no_rope_layers", "list of integers"),
    Field("scale_attn_weights", "flag"),
    Field("scale_attn_by_inverse_layer_idx", "flag"),
)  # fmt: skip

FIELDS: Mapping[str, Field] = MappingProxyType({row.name: row for row in (*_COMMON, *_OF_SOME)})
STANDARD: tuple[str, ...] = tuple(row.name for row in _COMMON)
"""What most decoders have; `rms_norm_eps` is the epsilon of norms of any kind."""

TYPED: Mapping[str, Field] = MappingProxyType({row.apr: row for row in FIELDS.values() if row.apr})
"""Key of `.apr` metadata → the field that it states."""
