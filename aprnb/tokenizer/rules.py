"""How byte-level vocabularies split text: by the metadata, else by the rule of the family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aprnb.architecture.families import family_named
from aprnb.errors import TokenizerError

ADD_TOKENIZER = "put the model's tokenizer.json next to the checkpoint"
PRE_TOKENIZERS: Mapping[str, str] = {
    "qwen2": "qwen2",
    "deepseek-r1-qwen": "qwen2",
    "llama-bpe": "llama-bpe",
    "llama3": "llama-bpe",
    "llama-v3": "llama-bpe",
    "falcon3": "llama-bpe",
    "tekken": "tekken",
    "gpt-2": "gpt-2",
    "smollm": "smollm",
}
"""Values of `tokenizer.pre_type` that are known, and the splitting that each of them means."""


def choose_pre_tokenizer(metadata: Mapping[str, Any], architecture: str) -> tuple[str, str, bool]:
    """Name of the byte-level pre-tokenizer, what it follows from, and whether that is an assumption."""
    named = metadata.get("tokenizer.pre_type")
    if named:
        if not isinstance(named, str) or named not in PRE_TOKENIZERS:
            known = ", ".join(PRE_TOKENIZERS)
            found = repr(named[:60]) if isinstance(named, str) else f"a {type(named).__name__}"
            raise TokenizerError(
                f"pre-tokenizer {found} is not supported", expected=f"one of {known}",
                where="metadata tokenizer.pre_type", action=ADD_TOKENIZER,
            )  # fmt: skip
        return PRE_TOKENIZERS[named], "metadata tokenizer.pre_type", False
    family = family_named(architecture)
    if family is None or family.pre_tokenizer is None:
        raise TokenizerError(f"the pre-tokenizer of {architecture}'s byte-level BPE is unknown", action=ADD_TOKENIZER)
    name, assumed = family.pre_tokenizer
    return name, f"rule of the {architecture} family" + (" (assumed)" if assumed else ""), assumed
