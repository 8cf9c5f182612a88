"""GPT-2: learned positions, LayerNorm with biases, matrices in `Conv1D` layout [in, out].

`apr import` renames its tensors to Llama's names, splits q, k and v apart and keeps the [in, out] layout.
"""

from aprnb.architecture.families.decoder import HEAD, HEAD_DIM, NO_ATTENTION_BIAS, NO_MLP_BIAS
from aprnb.architecture.families.family import Family, FieldRule, GgufGraph, Role, TensorRule, fields

_BLOCK, _LAYER = "transformer.h.{layer}.", "model.layers.{layer}."


def _tensor(
    name: str, gguf: str, shape: tuple[str, ...], role: Role, imported: str | None, parts: tuple[str, ...] = ()
) -> TensorRule:
    other = (f"{_LAYER}{imported}",) if imported else ()
    return TensorRule(
        _BLOCK + name,
        f"blk.{{layer}}.{gguf}",
        shape,
        role,
        other=(f"h.{{layer}}.{name}", *other),
        parts=tuple(f"{_LAYER}self_attn.{part}" for part in parts),
    )


def _with_bias(name: str, gguf: str, rows: str, columns: str, imported: str | None) -> tuple[TensorRule, ...]:
    split = ("q_proj", "k_proj", "v_proj") if imported is None else ()
    return tuple(
        _tensor(
            f"{name}.{kind}",
            f"{gguf}.{kind}",
            (rows, columns)[kind == "bias" :],
            "conv1d" if kind == "weight" else "bias",
            imported and f"{imported}.{kind}",
            tuple(f"{part}.{kind}" for part in split),
        )
        for kind in ("weight", "bias")
    )


def _norm(name: str, gguf: str, imported: str) -> tuple[TensorRule, ...]:
    return tuple(
        _tensor(f"{name}.{kind}", f"{gguf}.{kind}", ("hidden_size",), "norm", f"{imported}.{kind}")
        for kind in ("weight", "bias")
    )


def _outside(name: str, gguf: str, shape: tuple[str, ...], role: Role, imported: str) -> TensorRule:
    return TensorRule(f"transformer.{name}", gguf, shape, role, other=(name, imported))


GPT2 = Family(
    model_type="gpt2",
    class_name="GPT2LMHeadModel",
    config_name="GPT2Config",
    other_names=("gpt2forcausallm",),
    tensors=(
        _outside(
            "wte.weight", "token_embd.weight", ("vocab_size", "hidden_size"), "embedding", "model.embed_tokens.weight"
        ),
        _outside(
            "wpe.weight",
            "position_embd.weight",
            ("max_position_embeddings", "hidden_size"),
            "embedding",
            "model.position_embedding.weight",
        ),
        *_norm("ln_1", "attn_norm", "input_layernorm"),
        *_with_bias("attn.c_attn", "attn_qkv", "hidden_size", "3*hidden_size", None),
        *_with_bias("attn.c_proj", "attn_output", "hidden_size", "hidden_size", "self_attn.o_proj"),
        *_norm("ln_2", "ffn_norm", "post_attention_layernorm"),
        *_with_bias("mlp.c_fc", "ffn_up", "hidden_size", "intermediate_size", "mlp.up_proj"),
        *_with_bias("mlp.c_proj", "ffn_down", "intermediate_size", "hidden_size", "mlp.down_proj"),
        _outside("ln_f.weight", "output_norm.weight", ("hidden_size",), "norm", "model.norm.weight"),
        _outside("ln_f.bias", "output_norm.bias", ("hidden_size",), "norm", "model.norm.bias"),
        HEAD,
    ),
    rules=(
        HEAD_DIM,
        FieldRule("num_key_value_heads", lambda s: s["num_attention_heads"], "certain", "one for each query head"),
        NO_ATTENTION_BIAS,
        NO_MLP_BIAS,
        FieldRule("hidden_act", "gelu_new", "assumed", "every published checkpoint uses GELU (tanh)"),
        FieldRule("scale_attn_weights", True, "assumed", "every published checkpoint scales by √head size"),
        FieldRule("scale_attn_by_inverse_layer_idx", False, "assumed", "no published checkpoint scales by layer"),
    ),
    fields=fields(
        without="rope_theta rope_scaling sliding_window attention_bias mlp_bias",
        more="scale_attn_weights scale_attn_by_inverse_layer_idx",
    ),
    config_keys={
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "n_inner",
        "max_position_embeddings": "n_positions",
        "rms_norm_eps": "layer_norm_epsilon",
        "hidden_act": "activation_function",
    },
    defaults={
        "num_attention_heads": 12,
        "rms_norm_eps": 1e-5,
        "hidden_act": "gelu_new",
        "tie_word_embeddings": True,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
    },
    pre_tokenizer=("gpt-2", False),
    gguf=GgufGraph("gpt2", layer_norm=True, biases="optional"),
)
