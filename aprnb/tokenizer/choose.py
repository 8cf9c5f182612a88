"""Chooses the tokenizer of a checkpoint: from its metadata, else from its sidecar files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aprnb.architecture.families import family_named
from aprnb.errors import TokenizerError
from aprnb.formats.gguf.metadata import key_name
from aprnb.formats.huggingface.tokenizer_json import reassembled
from aprnb.formats.json_files import MAX_TOKENIZER_VALUES
from aprnb.tokenizer.checkpoint_tokenizer import NAMES, CheckpointTokenizer
from aprnb.tokenizer.choose_template import choose_template
from aprnb.tokenizer.embedded_tokenizer import embedded_tokenizer
from aprnb.tokenizer.facts import TokenizerFacts, has_tokenizer, read_facts
from aprnb.tokenizer.rules import choose_pre_tokenizer
from aprnb.tokenizer.tokenizer_files import TokenizerFiles, find_tokenizer_files, sidecar_object

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    from aprnb.architecture import Architecture
    from aprnb.formats import Checkpoint


@dataclass(frozen=True)
class TokenizerChoice:
    """A tokenizer with its chat template, where both come from, and what had to be assumed."""

    checkpoint_tokenizer: CheckpointTokenizer
    source: str
    assumptions: tuple[str, ...]
    template_source: str
    warnings: tuple[str, ...] = ()
    vocabulary_note: str = ""
    document: Mapping[str, Any] | None = None
    """The tokenizer.json, where the source has it whole."""

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer as `transformers` has it, made on first use."""
        return self.checkpoint_tokenizer.to_transformers()


def build_tokenizer(
    metadata: Mapping[str, Any],
    architecture_name: str,
    path: Path | None = None,
    chat_template: str | None = None,
) -> TokenizerChoice:
    """The tokenizer of a checkpoint with this metadata.

    `path` is the checkpoint's path (or its folder): the files next to it are used where the metadata has no
    tokenizer, and in place of assumptions. `chat_template` is a name, a file or template text and overrides the others.
    Without any template `tokenizer.chat_template` is None and rendering a conversation raises ChatTemplateError.

    Raises TokenizerError where nothing determines the tokenizer, ChatTemplateError for a template that cannot be used.
    """
    sidecars = find_tokenizer_files(path)
    whole, doubts = embedded_tokenizer(metadata)
    if whole is not None:
        built = _from_whole(whole, metadata)
    elif has_tokenizer(metadata):
        built = _from_metadata(metadata, architecture_name, sidecars)
    elif sidecars.tokenizer is not None:
        built = _from_sidecars(sidecars)
    else:
        raise TokenizerError(
            "the checkpoint has no tokenizer",
            where=f"{key_name(metadata, 'tokenizer.vocabulary')} is absent, no tokenizer.json is next to the file",
            action="put the model's tokenizer.json (and tokenizer_config.json) into the checkpoint's folder",
        )
    tokenizer = built.checkpoint_tokenizer
    template = choose_template(metadata, architecture_name, sidecars, chat_template, tokenizer)
    tokenizer.chat_template, tokenizer.template_problem = template.text, template.problem
    assumptions = (*built.assumptions, *template.assumptions)
    warnings = (*doubts, *built.warnings, *template.warnings)
    return replace(built, assumptions=assumptions, template_source=template.source, warnings=warnings)


def choose_tokenizer(
    checkpoint: Checkpoint, architecture: Architecture, chat_template: str | None = None
) -> TokenizerChoice:
    """`build_tokenizer` for an open checkpoint; `vocabulary_note` counts the embedding's rows without a token."""
    choice = build_tokenizer(checkpoint.metadata, architecture.model_type, checkpoint.path, chat_template)
    note = check_vocabulary(choice.checkpoint_tokenizer, architecture.vocab_size)
    return replace(choice, vocabulary_note=note or "")


def defines_tokenizer(metadata: Mapping[str, Any], path: Path) -> bool:
    """Whether the metadata or a sidecar file defines a tokenizer."""
    stated = reassembled(metadata) is not None or has_tokenizer(metadata)
    return stated or find_tokenizer_files(path).tokenizer is not None


def check_vocabulary(tokenizer: CheckpointTokenizer | PreTrainedTokenizerFast, vocab_size: int) -> str | None:
    """Check the tokenizer against an embedding of `vocab_size` rows; returns a note where rows stay unused.

    Raises TokenizerError where a token has no row.
    """
    ids = tokenizer.get_vocab()
    text, highest = max(ids.items(), key=lambda item: item[1], default=("", -1))
    if highest >= vocab_size:
        raise TokenizerError(
            f"the tokenizer's highest id is {highest:,} ({text!r}); the embedding has {vocab_size:,} rows",
            expected=f"ids below {vocab_size:,}",
            action="this tokenizer is not the model's: put the right tokenizer.json next to the checkpoint",
        )
    unused = vocab_size - len(set(ids.values()))
    return f"{unused:,} of the embedding's {vocab_size:,} rows have no token" if unused else None


def _from_metadata(metadata: Mapping[str, Any], architecture: str, sidecars: TokenizerFiles) -> TokenizerChoice:
    facts = read_facts(metadata)
    backend, notes, unsure = backend_of(facts, metadata, architecture)
    warnings = list(facts.warnings)
    if unsure and sidecars.tokenizer is not None:
        settled = _from_sidecars(sidecars)
        if _same_vocabulary(settled.checkpoint_tokenizer, facts):
            _take_special_tokens(settled.checkpoint_tokenizer, facts, architecture)
            source = f"{sidecars.tokenizer.name} next to the file (its vocabulary is the file's)"
            return TokenizerChoice(settled.checkpoint_tokenizer, source, (), "", facts.warnings)
        warnings.append(f"{sidecars.tokenizer} has another vocabulary than the checkpoint; it is not used")
    tokenizer = CheckpointTokenizer(backend)
    _take_special_tokens(tokenizer, facts, architecture)
    return TokenizerChoice(tokenizer, f"metadata ({facts.kind})", notes, "", tuple(warnings))


def backend_of(
    facts: TokenizerFacts, metadata: Mapping[str, Any], architecture: str
) -> tuple[Tokenizer, tuple[str, ...], bool]:
    """The tokenizer that lists in the metadata give, what was assumed, and whether a sidecar file could settle that."""
    return _byte_level(facts, metadata, architecture) if facts.kind == "byte-level BPE" else _sentencepiece(facts)


def _byte_level(
    facts: TokenizerFacts, metadata: Mapping[str, Any], architecture: str
) -> tuple[Tokenizer, tuple[str, ...], bool]:
    from aprnb.tokenizer.fast_tokenizer import byte_level_tokenizer

    name, source, assumed = choose_pre_tokenizer(metadata, architecture)
    family = family_named(name)  # a family's own pre-tokenizer has its name
    published, token, number = (family and family.nfc_vocabulary) or ("", "", -1)
    composed = bool(published) and facts.tokens.get(number) == token
    notes = []
    if assumed:
        notes.append(f"tokenizer: text is split as {name} does ({source}), unless a tokenizer.json is next to the file")
    if composed:
        every = f"every published {published} vocabulary ({token} = {number})"
        notes.append(f"tokenizer: text is normalised to NFC, as with {every}")
    elif published:
        notes.append(f"tokenizer: text is not normalised (not the published {published} vocabulary, which uses NFC)")
    elif facts.bos_id is not None and facts.add_bos is None:
        notes.append(f"tokenizer: no {facts.tokens[facts.bos_id]} is added before text; the file does not say")
    return byte_level_tokenizer(facts, name, compose=composed), tuple(notes), assumed


def _sentencepiece(facts: TokenizerFacts) -> tuple[Tokenizer, tuple[str, ...], bool]:
    from aprnb.tokenizer.fast_tokenizer import sentencepiece_tokenizer

    notes = []
    if facts.add_space is None:
        notes.append("tokenizer: a space is added before text, as llama's SentencePiece models do (assumed)")
    if facts.add_bos is None and facts.bos_id is not None:
        bos = facts.tokens[facts.bos_id]
        notes.append(f"tokenizer: {bos} is added before text, as every SentencePiece model does")
        facts = replace(facts, add_bos=True)
    return sentencepiece_tokenizer(facts), tuple(notes), facts.add_space is None


def _from_whole(whole: Mapping[str, Any], metadata: Mapping[str, Any]) -> TokenizerChoice:
    """The source's own tokenizer.json, reassembled from the metadata."""
    from aprnb.tokenizer.fast_tokenizer import parsed_tokenizer

    where = key_name(metadata, "hf_tokenizer")
    backend = parsed_tokenizer(whole, where)
    typed = metadata.get("special_tokens")
    named = {}
    for name in NAMES:
        number = metadata.get(f"tokenizer.{name.removesuffix('_token').replace('pad', 'padding')}_token_id")
        shown = backend.id_to_token(number) if type(number) is int and number >= 0 else None
        text = typed.get(name) if isinstance(typed, Mapping) else shown
        if isinstance(text, str) and shown is not None:
            text = shown  # as on the card
        if isinstance(text, str) and backend.token_to_id(text) is not None:
            named[name] = text
    return TokenizerChoice(CheckpointTokenizer(backend, untrusted=True, **named), where, (), "", document=whole)


def _from_sidecars(sidecars: TokenizerFiles) -> TokenizerChoice:
    from aprnb.tokenizer.fast_tokenizer import parsed_tokenizer

    path = sidecars.tokenizer
    assert path is not None
    backend = parsed_tokenizer(sidecar_object(path, MAX_TOKENIZER_VALUES), path)
    named, warnings = _named_tokens(sidecars, backend)
    source = f"{path.name} next to the file"
    return TokenizerChoice(CheckpointTokenizer(backend, untrusted=True, **named), source, (), "", warnings)


def _named_tokens(sidecars: TokenizerFiles, backend: Tokenizer) -> tuple[dict[str, str], tuple[str, ...]]:
    """bos, eos, pad and unk of tokenizer_config.json, as far as the tokenizer has them."""
    if sidecars.settings is None:
        return {}, ("no tokenizer_config.json next to the file: which token ends an answer is not known",)
    settings = sidecar_object(sidecars.settings, MAX_TOKENIZER_VALUES)
    named, warnings = {}, []
    for name in NAMES:
        value = settings.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str) and backend.token_to_id(text) is not None:
            named[name] = text
        elif text is not None:
            warnings.append(
                f"{sidecars.settings.name}: {name} {text!r} is not a token of {sidecars.tokenizer}; not used"
            )
    return named, tuple(warnings)


def _same_vocabulary(tokenizer: CheckpointTokenizer, facts: TokenizerFacts) -> bool:
    return bool(tokenizer.get_vocab() == {text: number for number, text in facts.tokens.items()})


def _take_special_tokens(tokenizer: CheckpointTokenizer, facts: TokenizerFacts, architecture: str) -> None:
    """The ids that the file names, else the family's padding token."""
    named = tokenizer.special_tokens_map
    numbers = (facts.bos_id, facts.eos_id, facts.pad_id, facts.unk_id)
    for name, number in zip(NAMES, numbers, strict=True):
        if number is not None:
            named[name] = facts.tokens[number]
    family = family_named(architecture)
    pad = family.pad_token if family else None
    if facts.pad_id is None and pad is not None and pad in facts.tokens.values():
        named["pad_token"] = pad
