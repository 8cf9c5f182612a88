"""What GGUF's keys do not state about a tokenizer, by name: for the conversion's warnings.

llama.cpp reads these keys alone. The file keeps the rest of the tokenizer.json under a key of its own, so that a
conversion back loses nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aprnb.printable import and_more
from aprnb.tokenizer.gguf.splitting import Splitting
from aprnb.tokenizer.rules import PRE_TOKENIZERS
from aprnb.tokenizer.sandbox.tokenizer_process import ORDINARY_TEXTS, texts_around

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FLAGS = {
    "lstrip": "spaces before it belong to it", "rstrip": "spaces behind it belong to it",
    "single_word": "it must be a word of its own", "normalized": "it is found in normalised text",
}  # fmt: skip
_SPACE = {"String": " "}
_WITHOUT_MARKS = ("tekken", "gpt-4o")
"""llama.cpp has no class for combining marks in these splittings (llama-vocab.cpp)."""
_PARTS = ("normalizer", "pre_tokenizer", "decoder")


def same_program(whole: Mapping[str, Any], again: Tokenizer) -> bool:
    """Whether a reader that has GGUF's keys alone makes the same steps and the same flags of added tokens."""
    other = {part: _stated(getattr(again, part)) for part in _PARTS}
    same = all(_relevant(part, whole) == _relevant(part, other) for part in _PARTS)
    flagged = any(_flagged(whole, flag) for flag in FLAGS)
    return same and not flagged and bool(whole["model"].get("ignore_merges")) == bool(again.model.ignore_merges)


@dataclass(frozen=True, slots=True)
class Compared:
    """A reader of GGUF's keys alone beside the source: texts on which their ids, and their decoded texts, differ."""

    texts: tuple[str, ...]
    other_ids: tuple[str, ...]
    other_text: tuple[str, ...]

    @property
    def splits_plain_text(self) -> bool:
        """Whether the ids of printable ASCII text without added tokens are the same."""
        return not any(text in ORDINARY_TEXTS and text.isascii() and text.isprintable() for text in self.other_ids)


def compare(whole: Mapping[str, Any], source: Tokenizer, again: Tokenizer) -> Compared:
    """Both tokenizers on ordinary texts and on texts with the source's added tokens."""
    texts = (*ORDINARY_TEXTS, *texts_around([token["content"] for token in _added(whole)]))
    ids = {text: source.encode(text, add_special_tokens=False).ids for text in texts}
    other_ids = [text for text in texts if again.encode(text, add_special_tokens=False).ids != ids[text]]

    def same_text(numbers: list[int]) -> bool:
        both = (False, True)
        return all(source.decode(numbers, skip) == again.decode(numbers, skip) for skip in both)

    return Compared(texts, tuple(other_ids), tuple(text for text in texts if not same_text(ids[text])))


def losses(whole: Mapping[str, Any], source: Tokenizer, compared: Compared, splitting: Splitting) -> list[str]:
    """What llama.cpp, which reads GGUF's keys alone, does not do as the source does."""
    dropout = whole["model"].get("dropout")
    named = [f"leaves out no merges at random, as the tokenizer does (dropout {dropout})"] if dropout else []
    named += [*_normalizers(whole), *_marks(splitting), *_flags(whole), *_cut_strings(source)]
    named += _spaces(whole) if compared.other_ids and splitting.add_space and splitting.pre is None else []
    if splitting.pre is not None and not compared.other_ids and not _same_cuts(whole, splitting):
        named.append(f"splits text as {splitting.pre}, not by the tokenizer's own pattern: equal on the texts tried")
    named += _prefix_space(whole) if splitting.pre is not None else []
    if compared.other_ids and not (named and compared.splits_plain_text):
        examples = ", ".join(repr(text)[:60] for text in compared.other_ids[:2])
        of = f"{len(compared.other_ids)} of {len(compared.texts)} texts that were tried"
        named.append(f"gives other ids on {of}, such as {examples}")
    if splitting.unstated:
        tokens = ", ".join(str(source.id_to_token(number)) for number in splitting.unstated)
        named.append(f"does not add {tokens} around texts, as the post-processor does")
    if compared.other_text:
        kinds = ", ".join(dict.fromkeys(kind for kind, _ in _steps(whole.get("decoder")))) or "none"
        named.append(f"decodes otherwise than the tokenizer's decoder ({kinds})")
    return named


def _normalizers(whole: Mapping[str, Any]) -> Iterator[str]:
    for kind, step in _steps(whole.get("normalizer")):
        if kind in ("NFC", "NFD", "NFKC", "NFKD"):
            yield f"does not normalise text to {kind}: text in another form gets other ids"
        elif not (kind == "Prepend" or (kind == "Replace" and step.get("pattern") == _SPACE)):
            yield f"does not apply the normalizer {kind}"


def _spaces(whole: Mapping[str, Any]) -> Iterator[str]:
    """Metaspace adds no space before one that is there, and with "first" (`legacy: false`) none after added tokens."""
    schemes = [step.get("prepend_scheme") for kind, step in _steps(whole.get("pre_tokenizer")) if kind == "Metaspace"]
    if "first" in schemes:
        yield "adds a space to text that begins with one and to text after added tokens, which the tokenizer does not"
    elif "always" in schemes:
        yield "adds a space to text that begins with one, which the tokenizer does not"


def _prefix_space(whole: Mapping[str, Any]) -> Iterator[str]:
    steps = [step for kind, step in _steps(whole.get("pre_tokenizer")) if kind == "ByteLevel"]
    if any(step.get("add_prefix_space") is True for step in steps):
        yield "adds no space in front of text, as the tokenizer does (add_prefix_space)"


def _marks(splitting: Splitting) -> Iterator[str]:
    if splitting.pre in _WITHOUT_MARKS:
        yield f"cuts words at combining marks ({splitting.pre}), as in Hindi: such text gets other ids"


def _same_cuts(whole: Mapping[str, Any], splitting: Splitting) -> bool:
    """Whether the pre-tokenizer is the one of the splitting's name."""
    from aprnb.tokenizer.fast_tokenizer import splitter

    named = splitter(PRE_TOKENIZERS[splitting.pre or ""])
    return _relevant("pre_tokenizer", whole) == _relevant("pre_tokenizer", {"pre_tokenizer": _stated(named)})


def _cut_strings(source: Tokenizer) -> Iterator[str]:
    tokens = [number for text, number in source.get_vocab().items() if "\0" in text]
    if tokens:
        ids = " ".join(filter(None, (", ".join(map(str, sorted(tokens)[:5])), and_more(len(tokens) - 5))))
        yield f"ends a string at NUL, which the tokens {ids} contain"


def _flags(whole: Mapping[str, Any]) -> Iterator[str]:
    for flag, meaning in FLAGS.items():
        tokens = _flagged(whole, flag)
        if tokens:
            names = " ".join(filter(None, (", ".join(tokens[:5]), and_more(len(tokens) - 5))))
            yield f"does not know {flag} ({meaning}) of {names}"


def _flagged(whole: Mapping[str, Any], flag: str) -> list[str]:
    if flag == "normalized" and whole.get("normalizer") is None:
        return []
    return [str(token["content"]) for token in _added(whole) if token.get(flag) is True]


def _steps(step: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Type and settings of a step's parts; sequences are flattened. The step was checked by `tokenizer_program`."""
    if isinstance(step, Mapping):
        inner = [step.get(key) for key in ("normalizers", "pretokenizers", "processors", "decoders")]
        lists = [each for each in inner if isinstance(each, list)]
        if not lists:
            yield str(step.get("type")), step
        for each in lists:
            for part in each:
                yield from _steps(part)


def _relevant(part: str, program: Mapping[str, Any]) -> list[Any]:
    """The steps of a part, without what changes no id and no text."""
    without_spaces = any(step.get("pattern") == _SPACE for _, step in _steps(program.get("normalizer")))
    found: list[Any] = []
    for kind, step in _steps(program.get(part)):
        if kind == "ByteLevel":
            found.append(
                (kind, *(step.get(key) for key in ("add_prefix_space", "use_regex") if part == "pre_tokenizer"))
            )
        elif not (kind == "Split" and step.get("pattern") == _SPACE and without_spaces):
            found.append((kind, step))
    return found


def _stated(part: Any) -> Any:
    """A step of the library as JSON."""
    return None if part is None else json.loads(part.__getstate__())


def _added(whole: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return whole.get("added_tokens") or ()
