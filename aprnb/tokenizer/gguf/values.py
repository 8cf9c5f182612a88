"""A checkpoint's tokenizer in the keys of GGUF, so that llama.cpp produces the same tokens."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aprnb.errors import TokenizerError
from aprnb.formats.gguf.metadata import HF_TOKENIZER, TOKENIZER_SETTINGS, apr_metadata
from aprnb.formats.gguf.values import MAX_TEXT_BYTES, GgufValue
from aprnb.formats.huggingface.tokenizer_json import REST
from aprnb.printable import first_names, shown_name
from aprnb.tokenizer.embedded_tokenizer import embedded_tokenizer
from aprnb.tokenizer.facts import TokenizerFacts, has_tokenizer, read_facts
from aprnb.tokenizer.gguf.losses import compare, losses, same_program
from aprnb.tokenizer.gguf.splitting import Splitting, likely_splittings, stated_splitting
from aprnb.tokenizer.merges import NOT_MERGED
from aprnb.tokenizer.vocabulary import BYTE, BYTE_PIECE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Values = dict[str, GgufValue]
Pairs = Collection[tuple[str, str]]
_KEEP = "convert to .apr or a folder, which keep the whole tokenizer"


@dataclass(frozen=True, slots=True)
class GgufTokenizer:
    """Keys and values, and what llama.cpp will not do as the source does."""

    values: Values
    warnings: tuple[str, ...] = ()


def tokenizer_values(metadata: Mapping[str, Any], model_type: str, vocab_size: int) -> GgufTokenizer:
    """The keys of the tokenizer in `.apr` metadata, filled up to `vocab_size` tokens; empty where there is none.

    Raises TokenizerError for a tokenizer that the metadata do not determine, with more tokens than rows, or of which
    GGUF cannot express how it splits plain text.
    """
    template = metadata.get("chat_template") or metadata.get("tokenizer.chat_template")
    values = {"tokenizer.chat_template": GgufValue("string", template)} if isinstance(template, str) else {}
    if not has_tokenizer(metadata):
        return GgufTokenizer(values)
    facts = read_facts(metadata)
    highest = max(facts.tokens, default=-1)
    if highest >= vocab_size:
        beyond = [shown_name(facts.tokens[number]) for number in facts.tokens if number >= vocab_size]
        raise TokenizerError(
            f"the tokenizer's highest id is {highest:,}", expected=f"ids below {vocab_size:,}, the embedding's rows",
            action=f"remove {first_names(beyond, 5)} from the tokenizer, or save the model after "
            f"`model.resize_token_embeddings({highest + 1})`",
        )  # fmt: skip
    whole, _ = embedded_tokenizer(metadata)
    if whole is None:
        splitting = stated_splitting(metadata, facts, model_type)
        return GgufTokenizer(_listed(metadata, facts, facts.merges, splitting, vocab_size) | values)
    kept = _of_whole(whole, metadata, facts, model_type, vocab_size)
    return GgufTokenizer(kept.values | values, kept.warnings)


def _of_whole(
    whole: Mapping[str, Any], metadata: Mapping[str, Any], facts: TokenizerFacts, model_type: str, vocab_size: int
) -> GgufTokenizer:
    """GGUF's keys for a whole tokenizer.json; where these do not reproduce it, what else it has is added as JSON."""
    from aprnb.tokenizer.fast_tokenizer import parsed_tokenizer

    renumbered = _renumbered(whole)
    source = parsed_tokenizer(renumbered or whole, "the source's tokenizer.json")
    merges = list(facts.merges)
    tries = []
    for splitting in likely_splittings(source, metadata, facts, model_type):
        listed = _listed(metadata, facts, merges, splitting, vocab_size)
        again, backend = _read_back(listed, model_type)
        compared = compare(whole, source, backend)
        tries.append((splitting, listed, again, backend, compared))
        if not compared.other_ids:
            break
    splitting, found, again, backend, compared = min(tries, key=lambda one: len(one[-1].other_ids))
    # of one piece's merges the order cannot be kept: the leftmost pair goes first
    others = list(again.merges)
    if others != merges and set(others) != set(merges):
        raise TokenizerError("this tokenizer's merges are not those of a SentencePiece model", action=_KEEP)
    lost = losses(whole, source, compared, splitting)
    if not compared.splits_plain_text:
        reasons = "; llama.cpp ".join(reversed(lost))
        raise TokenizerError(f"GGUF cannot express how this tokenizer splits text: llama.cpp {reasons}", action=_KEEP)
    warnings = [f"llama.cpp {text}" for text in lost]
    differs = compared.other_ids or compared.other_text or splitting.unstated or again.added != facts.added
    if renumbered is not None:
        warnings.append("added tokens have the ids of tokenizer.json; the tokenizers library gives them others")
    elif differs or not same_program(whole, backend):
        warnings += _add_rest(found, metadata, merges)
    return GgufTokenizer(found, tuple(warnings))


def _renumbered(whole: Mapping[str, Any]) -> dict[str, Any] | None:
    """With added tokens in the model's vocabulary too, so that the library gives them their own ids.

    None where it does so anyway: those outside the vocabulary follow it without a gap.
    """
    vocabulary, added = whole["model"]["vocab"], whole.get("added_tokens") or []
    if not isinstance(vocabulary, dict) or not all(isinstance(token, dict) and "content" in token for token in added):
        return None  # which the library rejects
    outside = {token["content"]: token.get("id") for token in added if token["content"] not in vocabulary}
    if list(outside.values()) == list(range(len(vocabulary), len(vocabulary) + len(outside))):
        return None
    return {**whole, "model": {**whole["model"], "vocab": {**vocabulary, **outside}}}


def _add_rest(found: Values, metadata: Mapping[str, Any], merges: Pairs) -> list[str]:
    """Adds what GGUF's keys do not state; returns a warning where that is too long."""
    rest = json.dumps(metadata[REST], ensure_ascii=False)
    if len(rest.encode("utf-8", "surrogatepass")) > MAX_TEXT_BYTES:
        return ["the rest of tokenizer.json is too long for a GGUF key: it is lost"]
    found[HF_TOKENIZER] = GgufValue("string", rest)
    found["tokenizer.ggml.merges"] = _merges(merges)
    return []


def _read_back(listed: Values, model_type: str) -> tuple[TokenizerFacts, Tokenizer]:
    """What a reader makes of GGUF's own keys."""
    from aprnb.tokenizer.choose import backend_of

    read, _ = apr_metadata(listed, {})
    facts = read_facts(read)
    return facts, backend_of(facts, read, model_type)[0]


def _listed(
    metadata: Mapping[str, Any], facts: TokenizerFacts, merges: Pairs, splitting: Splitting, vocab_size: int
) -> Values:
    """The lists and settings that llama.cpp reads."""
    texts = dict(facts.tokens.items())
    types = [_token_type(facts, number, texts.get(number)) for number in range(vocab_size)]
    found = {
        "tokens": GgufValue("array[string]", _tokens(texts, vocab_size)),
        "token_type": GgufValue("array[int32]", types),
    }
    if splitting.pre is not None:
        found["model"] = GgufValue("string", "gpt2")
        found["pre"] = GgufValue("string", splitting.pre)
        found["merges"] = _merges(merges)
    else:
        found["model"] = GgufValue("string", "llama")
        found["scores"] = GgufValue("array[float32]", _scores(facts, merges, metadata, vocab_size))
    for name, kind in TOKENIZER_SETTINGS.items():
        value = metadata.get(f"tokenizer.{name}")
        if (type(value) is bool) if kind == "bool" else (type(value) is int and 0 <= value < vocab_size):
            found[name] = GgufValue(kind, value)
    ids = {"bos": facts.bos_id, "eos": facts.eos_id, "padding": facts.pad_id, "unknown": facts.unk_id}
    found |= {f"{name}_token_id": GgufValue("uint32", number) for name, number in ids.items() if number is not None}
    added = {"add_bos_token": splitting.add_bos, "add_eos_token": splitting.add_eos}
    added |= {"add_space_prefix": splitting.add_space} if splitting.pre is None else {}
    found |= {name: GgufValue("bool", value) for name, value in added.items()}
    return {f"tokenizer.ggml.{key}": value for key, value in found.items()}


def _merges(merges: Pairs) -> GgufValue:
    """Raises TokenizerError for parts with spaces, which readers would cut at the first one."""
    joined = list(map(" ".join, merges))
    spaced = next((merge for merge in joined if merge.count(" ") > 1), None)
    if spaced is not None:
        raise TokenizerError(
            f"the merge {spaced[:60]!r} has a part with a space, which GGUF cannot express",
            action=_KEEP,
        )
    return GgufValue("array[string]", joined)


def _tokens(texts: Mapping[int, str], vocab_size: int) -> list[str]:
    """Every row's text, all of them distinct: llama.cpp rejects a file with two equal ones."""
    taken = {text for text in texts.values() if text.startswith("[PAD")}
    found = []
    for number in range(vocab_size):
        text = texts.get(number)
        if text is None:
            text = f"[PAD{number}]"
            while text in taken:
                text += "]"
        found.append(text)
    return found


def _token_type(facts: TokenizerFacts, number: int, text: str | None) -> int:
    if text is None:
        return UNUSED
    if facts.kind == "SentencePiece BPE" and (text == "<unk>" or number == facts.unk_id):
        return UNKNOWN
    if number in facts.added:
        return CONTROL if facts.added[number] else USER_DEFINED
    return BYTE if facts.kind == "SentencePiece BPE" and BYTE_PIECE.fullmatch(text) else NORMAL


def _scores(facts: TokenizerFacts, merges: Pairs, metadata: Mapping[str, Any], vocab_size: int) -> list[float]:
    """The stored scores, or the ranks of the merges that make each piece, from which readers derive merges again."""
    stored = metadata.get("tokenizer.scores")
    if isinstance(stored, list):
        return ([float(score) for score in stored] + [NOT_MERGED] * vocab_size)[:vocab_size]
    ranks: dict[str, int] = {}
    for left, right in merges:
        ranks.setdefault(left + right, len(ranks))
    scores = [NOT_MERGED] * vocab_size
    for number, text in facts.tokens.items():
        if text in ranks:
            scores[number] = -float(ranks[text])
    return scores
