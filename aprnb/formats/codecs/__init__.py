"""Raw tensor bytes to numbers and back: plain types, the block formats of the `apr` tool, and GGML's."""

from aprnb.formats.codecs.decoding import decode, widen_bf16
from aprnb.formats.codecs.encoding import can_encode, encode, encode_for_gguf, encode_parts, stays_float32

__all__ = ["can_encode", "decode", "encode", "encode_for_gguf", "encode_parts", "stays_float32", "widen_bf16"]
