"""Older containers that share the magic of `.apr` and are not supported: their names and headers.

Everything is read from the first 64 bytes. Layouts, little-endian:

    APRN, byte 4 = 1   model type u16 at 6, then u32 sizes of metadata, payload and unpacked payload, u8 compression,
                       u8 flags, u8 quality
    APR1 (whisper)     version u16, u8 model type, u8 quantization, u8 compressed, u16 tensors, u8 flags, ten u32 dims
    APR1 (JSON index)  metadata length u32, then the JSON metadata
    APR2 (packed)      u8 compression, u32 unpacked length, then an APR1 with a JSON index, packed
    APR\\0 (private)    version u32 of 0 or 1, seven u32 dims, f32 rope_theta, f32 eps, u32 data offset
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

_ZSTANDARD_MAGIC = b"\x28\xb5\x2f\xfd"
_V1_MODELS = {1: "LinearRegression", 0xFF: "custom"}
_V1_COMPRESSION = {0: "none", 1: "Zstandard, level 3", 2: "Zstandard, level 19", 3: "LZ4"}
_V1_FLAGS = "encrypted signed streaming licensed trueno_native quantized model_card".split()
_WHISPER_QUANTIZATION = {0: "F32", 1: "F16", 2: "Int8", 3: "Int4"}
_WHISPER_DIMS = (
    "n_vocab n_audio_ctx n_audio_state n_audio_head n_audio_layer"
    " n_text_ctx n_text_state n_text_head n_text_layer n_mels"
).split()
_PRIVATE_DIMS = "hidden_dim num_layers num_heads num_kv_heads vocab_size intermediate_dim context_length".split()


@dataclass(frozen=True, slots=True)
class LegacyContainer:
    """What the file is, as it follows "PATH is", and the values of its header."""

    name: str
    facts: Mapping[str, str]


def legacy_container(head: bytes) -> LegacyContainer | None:
    """The legacy container that starts with `head` (up to 64 bytes); None for other files or fewer than 8 bytes."""
    magic = head[:4]
    if len(head) < 8:
        return None
    if magic == b"APRN" and head[4] != 2:
        return LegacyContainer(f"an old `.apr` container (magic APRN), version {head[4]}", _v1(head))
    if magic == b"APR1":
        return _json_indexed(head) if head[8:9] == b"{" else _whisper(head)
    if magic == b"APR2" and (head[4] != 2 or head[9:13] == _ZSTANDARD_MAGIC):
        return _packed(head)
    if magic == b"APR\0" and head[4:8] in (bytes(4), b"\1\0\0\0") and head[12:20] != (64).to_bytes(8, "little"):
        return LegacyContainer(
            "of a private layout of one program (magic APR\\0, version 0 or 1 as u32)", _private(head)
        )
    return None


def _v1(head: bytes) -> dict[str, str]:
    if len(head) < 32:
        return {}
    model, metadata, payload, unpacked, compression, flags, quality = struct.unpack_from("<HIIIBBB", head, 6)
    return {
        "version": f"{head[4]}.{head[5]}",
        "model type": _named(model, _V1_MODELS),
        "metadata bytes": f"{metadata:,} (MessagePack)",
        "payload bytes": f"{payload:,}, {unpacked:,} unpacked",
        "compression": _named(compression, _V1_COMPRESSION),
        "flags": ", ".join(name for bit, name in enumerate(_V1_FLAGS) if flags >> bit & 1) or "none",
        "quality": str(quality),
    }


def _whisper(head: bytes) -> LegacyContainer:
    name = "an old whisper container (magic APR1): a speech model"
    if len(head) < 52:
        return LegacyContainer(name, {})
    version, model, quantization, packed, tensors, flags = struct.unpack_from("<HBBBHB", head, 4)
    parts = [part for bit, part in enumerate(("vocabulary", "filterbank")) if flags >> bit & 1]
    return LegacyContainer(
        name,
        {
            "version": str(version),
            "model type": str(model),
            "quantization": _named(quantization, _WHISPER_QUANTIZATION),
            "compressed": "yes" if packed else "no",
            "tensors": f"{tensors:,}",
            "holds": ", ".join(parts) or "tensors only",
            **_dims(_WHISPER_DIMS, head, 12),
        },
    )


def _json_indexed(head: bytes) -> LegacyContainer:
    size = int.from_bytes(head[4:8], "little")
    return LegacyContainer("an old container with a JSON index (magic APR1)", {"metadata bytes": f"{size:,} (JSON)"})


def _packed(head: bytes) -> LegacyContainer:
    unpacked = int.from_bytes(head[5:9], "little")
    return LegacyContainer(
        f"an old packed container with a JSON index (magic APR2, compression {head[4]})",
        {"compression": _named(head[4], {0: "none", 1: "LZ4", 2: "Zstandard"}), "unpacked bytes": f"{unpacked:,}"},
    )


def _private(head: bytes) -> dict[str, str]:
    if len(head) < 48:
        return {}
    theta, eps, data_offset = struct.unpack_from("<ffI", head, 36)
    floats = {"rope_theta": f"{theta:g}", "eps": f"{eps:g}"}
    return {"version": str(head[4]), **_dims(_PRIVATE_DIMS, head, 8), **floats, "tensor data": f"byte {data_offset:,}"}


def _dims(names: list[str], head: bytes, at: int) -> dict[str, str]:
    return dict(zip(names, map(str, struct.unpack_from(f"<{len(names)}I", head, at)), strict=True))


def _named(code: int, names: Mapping[int, str]) -> str:
    return names.get(code, f"code {code}")
