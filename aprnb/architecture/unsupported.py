"""Models of kinds that are not supported, recognised by their names or by their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aprnb.errors import ArchitectureError, UnsupportedFamily
from aprnb.formats import Checkpoint, TensorEntry
from aprnb.printable import shown_name

_KINDS: dict[str, str] = {
    "qwen3_5": "a hybrid of linear and full attention",
    "qwen3_next": "a hybrid of linear and full attention",
    "qwen2_moe": "a mixture of experts with a shared expert",
    "mamba": "a state-space model",
    "mamba2": "a state-space model",
    "falcon_mamba": "a state-space model",
    "rwkv": "a recurrent model",
    "jamba": "a hybrid of attention and state-space layers",
    "bamba": "a hybrid of attention and state-space layers",
    "zamba2": "a hybrid of attention and state-space layers",
    "falcon_h1": "a hybrid of attention and state-space layers",
    "granitemoehybrid": "a hybrid of attention and state-space layers",
    "bert": "an encoder",
    "roberta": "an encoder",
    "distilbert": "an encoder",
    "modernbert": "an encoder",
    "deberta-v2": "an encoder",
    "xlm-roberta": "an encoder",
    "t5": "an encoder and decoder",
    "bart": "an encoder and decoder",
    "whisper": "a speech model",
    "moonshine": "a speech model",
    "gemma3": "a model with a vision tower; its text part alone is gemma3_text",
    "gemma3n": "a model with inputs other than text",
    "llava": "a model with a vision tower",
    "qwen2_vl": "a model with a vision tower",
    "qwen2_5_vl": "a model with a vision tower",
    "mllama": "a model with a vision tower",
    "deepseek_v2": "a mixture of experts with latent attention",
    "deepseek_v3": "a mixture of experts with latent attention",
    "opt": "a decoder-only model",
    "bloom": "a decoder-only model",
    "falcon": "a decoder-only model",
    "gpt_neox": "a decoder-only model",
    "gpt-neox": "a decoder-only model",
    "phi": "a decoder-only model (phi3 is supported)",
    "qwen2_classify": "a classifier, not a language model",
}
_SIGNS: tuple[tuple[str, str], ...] = (
    ("linear_attn.", "a hybrid of linear and full attention"),
    (".mixer.in_proj", "a state-space model"),
    (".ssm_", "a state-space model"),
    (".mamba.", "a hybrid of attention and state-space layers"),
    ("vision_tower.", "a model with a vision tower"),
    ("multi_modal_projector.", "a model with a vision tower"),
    ("bert.encoder.", "an encoder"),
    ("encoder.layer", "an encoder"),
    ("kv_a_proj_with_mqa", "a model with latent attention"),
    ("mlp.shared_expert", "a mixture of experts with a shared expert"),
)
_QUANTISED = {
    ".absmax": "bitsandbytes", ".quant_map": "bitsandbytes", ".SCB": "bitsandbytes", ".weight_scale_inv": "fp8",
    ".weight_packed": "compressed-tensors", ".weight_scale": "compressed-tensors", ".qweight": "gptq or awq",
    ".scales": "mlx", ".W_q": "hqq", ".weight._data": "quanto",
}  # fmt: skip
"""Ends of the names that a method of quantisation gives its tensors."""
_CLASSES = {"forsequenceclassification": "a classifier, not a language model", "formaskedlm": "an encoder"}


def describe_kind(name: str) -> str:
    """`: an encoder` for the name of a known other kind of model, or of a tensor that only such models have."""
    lower = name.strip().lower()
    plain = lower.removesuffix("forcausallm").removesuffix("model")
    kind = _KINDS.get(lower) or _KINDS.get(plain)
    kind = kind or next((kind for sign, kind in _SIGNS if sign in lower), None)
    kind = kind or next((kind for sign, kind in _CLASSES.items() if lower.endswith(sign)), None)
    return f": {kind}" if kind else ""


def reject_adapters(checkpoint: Checkpoint) -> None:
    """Raises for a file that holds LoRA matrices in place of a model."""
    names = list(checkpoint.tensors)
    kind = checkpoint.metadata.get("format")
    lora = [name for name in names if name.startswith("lora.") or ".lora_A." in name or name.endswith((".lora_a",))]
    if not lora and kind != "entrenar-delta-checkpoint" and checkpoint.metadata.get("model_type") != "adapter":
        return
    what = f"{len(lora)} LoRA matrices" if lora else f"the weight changes of a training run ({kind or 'adapter'})"
    raise UnsupportedFamily(
        f"{checkpoint.path.name} holds {what}: an adapter, not a model",
        where=str(checkpoint.path),
        action="merge it into its base first",
    )


def reject_quantised(checkpoint: Checkpoint) -> None:
    """Raises for a folder whose weights are quantised, which only the package that did it can decode.

    A config that states a method while all weights are plain floats is of a model that was dequantised.
    """
    if checkpoint.format not in ("huggingface", "safetensors"):
        return
    marked = next((name for name in checkpoint.tensors if name.endswith(tuple(_QUANTISED))), None)
    stated, key = _stated_quantisation(checkpoint.metadata.get("hf_config"))
    integers = (name for name, entry in checkpoint.tensors.items() if _is_integer_weight(name, entry))
    tensor = marked or (next(integers, None) if stated else None)
    if tensor is None:
        return
    method = stated or next(by for end, by in _QUANTISED.items() if tensor.endswith(end))
    load = "load it with transformers, call `model.dequantize()` and save it, or " if method == "bitsandbytes" else ""
    raise ArchitectureError(
        f"the folder's weights are quantised by {method} ({f'config.json: {key}; ' if key else ''}"
        f"tensor {shown_name(tensor)})",
        expected="plain weights",
        where=str(checkpoint.path),
        action=f"{load}open the original model, from before it was quantised",
    )


def _is_integer_weight(name: str, entry: TensorEntry) -> bool:
    return name.endswith("_proj.weight") and not (entry.dtype.is_float or entry.dtype.is_quantized)


def _stated_quantisation(config: Any) -> tuple[str | None, str | None]:
    """The method that a config states and the key that does; MLX writes no method."""
    if not isinstance(config, Mapping):
        return None, None
    stated = config.get("quantization_config")
    if isinstance(stated, Mapping) and isinstance(stated.get("quant_method"), str):
        return shown_name(stated["quant_method"]), "quantization_config"
    mlx = isinstance(config.get("quantization"), Mapping)
    return ("mlx", "quantization") if mlx else (None, None)
