"""StarCoder2: LayerNorm with biases, biases on every projection, an MLP without a gate; the window must be given."""

from dataclasses import replace

from aprnb.architecture.families import decoder
from aprnb.architecture.families.family import Family, FieldRule, GgufGraph, TensorRule


def _shift(norm: TensorRule) -> TensorRule:
    """The bias of a LayerNorm."""
    name, gguf = (text.replace(".weight", ".bias") for text in (norm.name, norm.gguf))
    return replace(norm, name=name, gguf=gguf)


STARCODER2 = Family(
    model_type="starcoder2",
    class_name="Starcoder2ForCausalLM",
    config_name="Starcoder2Config",
    tensors=(
        decoder.EMBEDDING,
        decoder.INPUT_NORM,
        _shift(decoder.INPUT_NORM),
        *decoder.ATTENTION,
        *decoder.ATTENTION_BIASES,
        decoder.MLP_NORM,
        _shift(decoder.MLP_NORM),
        decoder.linear("mlp.c_fc", "ffn_up", "intermediate_size", "hidden_size"),
        decoder.bias("mlp.c_fc", "ffn_up", "intermediate_size", "mlp_bias"),
        decoder.linear("mlp.c_proj", "ffn_down", "hidden_size", "intermediate_size"),
        decoder.bias("mlp.c_proj", "ffn_down", "hidden_size", "mlp_bias"),
        *(decoder.FINAL_NORM, _shift(decoder.FINAL_NORM), decoder.HEAD),
    ),
    rules=(
        decoder.NO_ROPE_SCALING,
        decoder.POSITIONS,
        FieldRule("hidden_act", "gelu_pytorch_tanh", "assumed", "every published checkpoint uses GELU (tanh)"),
    ),
    config_keys={"rms_norm_eps": "norm_epsilon", "attention_bias": "use_bias", "mlp_bias": "use_bias"},
    defaults=decoder.class_defaults(4096, heads=24, eps=1e-5, act="gelu_pytorch_tanh", tied=True, sliding_window=None),
    gguf=GgufGraph("starcoder2", layer_norm=True, biases="required"),
)
