"""How a model generates: its end tokens and sampling settings, as generation_config.json and as GGUF state them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aprnb.formats.gguf.provenance import General, general

SAMPLING: Mapping[str, str] = {
    "temperature": "sampling.temp",
    "top_k": "sampling.top_k",
    "top_p": "sampling.top_p",
    "min_p": "sampling.min_p",
    "repetition_penalty": "sampling.penalty_repeat",
}
"""Key of generation_config.json → GGUF's key without `general.`."""
_END_OF_MESSAGE = "<|eom_id|>"
_ENDS_OF_TURNS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<turn|>", "<|endoftext|>", "<EOT>", "[EOT]")
"""Tokens that llama.cpp takes for an end by their text, whatever the keys say."""


def sampling_settings(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of generation_config.json for the `general.sampling.*` of a GGUF file."""
    stated = general(metadata)
    found = {key: stated[name] for key, name in SAMPLING.items() if name in stated}
    return {"do_sample": True, **found} if found else {}


def gguf_sampling(generation: Mapping[str, Any]) -> General:
    """`general.sampling.*` for a generation_config.json that samples; its other settings have no effect."""
    if generation.get("do_sample") is not True:
        return {}
    found = {name: generation.get(key) for key, name in SAMPLING.items()}
    return {
        name: value if name == "sampling.top_k" else float(value)
        for name, value in found.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1 << 31
    }


def further_ends(
    metadata: Mapping[str, Any], ids: Iterable[int], eos: int | None, tokens: list[str]
) -> tuple[dict[str, int], list[int]]:
    """GGUF's keys for the end tokens besides `eos`, and those for which it has none and whose text says nothing.

    Keys that the source states are kept.
    """
    stated = {name: metadata.get(f"tokenizer.{name}_token_id") for name in ("eot", "eom")}
    found = {name: number for name, number in stated.items() if type(number) is int and 0 <= number < len(tokens)}
    left = [number for number in ids if number < len(tokens) and number not in (eos, *found.values())]
    for number in sorted(left, key=lambda number: _rank(tokens[number])):
        found.setdefault("eom" if tokens[number] == _END_OF_MESSAGE else "eot", number)
    left = [number for number in left if number not in found.values() and tokens[number] not in _ENDS_OF_TURNS]
    return {f"tokenizer.ggml.{name}_token_id": number for name, number in found.items()}, left


def _rank(text: str) -> int:
    return _ENDS_OF_TURNS.index(text) if text in _ENDS_OF_TURNS else len(_ENDS_OF_TURNS)
