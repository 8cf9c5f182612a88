"""How byte-level vocabularies split text: by the metadata, else by the rule of the family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aprnb.architecture.families import family_named
from aprnb.errors import TokenizerError
from aprnb.formats.gguf.metadata import key_name

ADD_TOKENIZER = "put the model's tokenizer.json next to the checkpoint"
_NAMES = {
    "qwen2": "qwen2 deepseek-r1-qwen kormo megrez stablelm2",
    "llama-bpe": "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
    "dbrx": "dbrx smaug-bpe chatglm-bpe glm4",
    "tekken": "tekken",
    "gpt-4o": "gpt-4o llama4 kanana2",
    "gpt-2": "gpt-2 phi-2 mpt olmo jais trillion mellum a.x-4.0 gigachat exaone4",
    "smollm": "smollm starcoder refact command-r codeshell exaone minerva-7b",
}
PRE_TOKENIZERS: Mapping[str, str] = {name: splitting for splitting, names in _NAMES.items() for name in names.split()}
"""Values of `tokenizer.pre_type` that are known, which are llama.cpp's, and the splitting that each of them means."""


def choose_pre_tokenizer(metadata: Mapping[str, Any], architecture: str) -> tuple[str, str, bool]:
    """Name of the byte-level pre-tokenizer, what it follows from, and whether that is an assumption."""
    named, source = metadata.get("tokenizer.pre_type"), key_name(metadata, "tokenizer.pre_type")
    if named:
        if not isinstance(named, str) or named not in PRE_TOKENIZERS:
            known = ", ".join(PRE_TOKENIZERS)
            found = repr(named[:60]) if isinstance(named, str) else f"a {type(named).__name__}"
            raise TokenizerError(
                f"pre-tokenizer {found} is not supported", expected=f"one of {known}",
                where=source, action=ADD_TOKENIZER,
            )  # fmt: skip
        return PRE_TOKENIZERS[named], source, False
    family = family_named(architecture)
    if family is None or family.pre_tokenizer is None:
        raise TokenizerError(f"the pre-tokenizer of {architecture}'s byte-level BPE is unknown", action=ADD_TOKENIZER)
    name, assumed = family.pre_tokenizer
    return name, f"rule of the {architecture} family" + (" (assumed)" if assumed else ""), assumed
