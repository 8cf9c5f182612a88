"""The types of a quantised GGUF file, tensor by tensor, as `llama-quantize` chooses them (llama-quant.cpp)."""

from __future__ import annotations

from dataclasses import dataclass

from aprnb.architecture import Architecture
from aprnb.architecture.names import layer_of
from aprnb.formats.dtypes import F16, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, DType


@dataclass(frozen=True, slots=True)
class Mix:
    """`usual` is the type of most matrices, `medium` mixes give half of the sensitive ones Q6_K."""

    usual: DType
    medium: bool


MIXES = {
    "Q4_K_S": Mix(Q4_K, medium=False),
    "Q4_K_M": Mix(Q4_K, medium=True),
    "Q5_K_S": Mix(Q5_K, medium=False),
    "Q5_K_M": Mix(Q5_K, medium=True),
}
FILE_TYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K": 12, "Q4_K_S": 14,
    "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18, "BF16": 32,
}  # fmt: skip
"""`general.file_type`, the numbers of llama.cpp's `llama_ftype`."""
FILE_TYPES |= {"Q4_K": FILE_TYPES["Q4_K_M"], "Q5_K": FILE_TYPES["Q5_K_M"]}
_FOR_OTHER_ROWS = {"Q4_K": Q5_0, "Q5_K": Q5_1, "Q6_K": Q8_0}


def fitted(dtype: DType, columns: int) -> DType:
    """`dtype`, or what replaces it for rows that are not whole blocks: K-quants have the next larger type of 32."""
    if columns % dtype.block_elements == 0:
        return dtype
    smaller = _FOR_OTHER_ROWS.get(dtype.name, F16)
    return smaller if columns % smaller.block_elements == 0 else F16


def mixed_type(mix: Mix, name: str, columns: int, architecture: Architecture) -> DType:
    """The type of the matrix with this GGUF name and row length."""
    tied = architecture.tie_word_embeddings
    if name == "output.weight" or (tied and name == "token_embd.weight"):
        return Q6_K if columns % mix.usual.block_elements == 0 else fitted(Q8_0, columns)
    return fitted(_of_layer(mix, name, architecture), columns)


def _of_layer(mix: Mix, name: str, architecture: Architecture) -> DType:
    layer, layers = layer_of(name), architecture.num_hidden_layers
    if layer is None:
        return mix.usual
    eight_experts = architecture["num_experts"] == 8
    part = name.split(".")[2]
    if part in ("attn_v", "attn_qkv"):
        return Q8_0 if eight_experts else _of_values(mix, layer, architecture)
    if part == "attn_k" and eight_experts:
        return Q8_0
    if part == "attn_output" and eight_experts and mix.usual == Q4_K:
        return Q5_K
    if part.startswith("ffn_down"):
        if mix.medium and _more_bits(layer, layers):
            return Q6_K
        return Q5_K if not mix.medium and mix.usual == Q4_K and layer < layers // 8 else mix.usual
    return mix.usual


def _of_values(mix: Mix, layer: int, architecture: Architecture) -> DType:
    if mix.medium and _more_bits(layer, architecture.num_hidden_layers):
        return Q6_K
    if mix.usual == Q4_K and ((not mix.medium and layer < 4) or _shares_values(architecture)):
        return Q5_K
    return mix.usual


def _more_bits(layer: int, layers: int) -> bool:
    """The first and the last eighth of the layers, and every third between them."""
    first = layers // 8
    return layer < first or layer >= 7 * layers // 8 or (layer - first) % 3 == 2


def _shares_values(architecture: Architecture) -> bool:
    """What llama.cpp calls 70B: 80 layers of a llama or qwen2 graph, in llama's with fewer value heads."""
    slug = architecture.family.gguf.slug
    grouped = architecture.num_attention_heads != architecture.num_key_value_heads
    return architecture.num_hidden_layers == 80 and (slug == "qwen2" or (slug == "llama" and grouped))
