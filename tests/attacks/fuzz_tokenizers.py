"""Target of the fuzzer: tokenizer.json, its settings and templates: bounded, described, and some of them made."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fuzz_case import SECRET, Case, become
from fuzz_documents import blind, changed_json, damaged
from fuzz_judges import parsed
from fuzz_layouts import small_tokenizer
from judges import WrongVerdict

from aprnb.errors import AprnbError
from aprnb.formats.huggingface.tokenizer_json import reassembled, special_ids, tokenizer_metadata
from aprnb.tokenizer.chat_template import render
from aprnb.tokenizer.choose import build_tokenizer
from aprnb.tokenizer.choose_template import find_template
from aprnb.tokenizer.description import describe_tokenizer
from aprnb.tokenizer.sandbox.tokenizer_program import MAX_GROWTH, MAX_STEPS, bounded_program
from aprnb.tokenizer.tokenizer_files import find_tokenizer_files, sidecar_object

DATA = Path(__file__).parents[1] / "data"
MADE = 0.03
"""How many within the bounds go through the child process, which takes a fifth of a second."""
WORDS = (
    "normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens", "type", "Sequence", "normalizers",
    "pretokenizers", "processors", "decoders", "Replace", "pattern", "String", "Regex", "content", "Split", "NFC",
    "Prepend", "Strip", "ByteLevel", "TemplateProcessing", "single", "special_tokens", "Fixed", "BPE", "Unigram",
    "WordPiece", "WordLevel", "vocab", "merges", "unk_token", "dropout", "truncation", "padding", "max_length",
    "max_input_chars_per_word", "(a+)+$", "(?:.*){50}x", "eos_token", "chat_template", "{{ 10**10 }}", "id", "<unk>",
    "byte_fallback", "Precompiled", "precompiled_charsmap", "start", "stop", "Metaspace", "CharDelimiterSplit",
)  # fmt: skip
STEPS: tuple[dict[str, Any], ...] = (
    {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}, {"type": "Prepend", "prepend": "▁"},
    {"type": "Replace", "pattern": {"Regex": " +"}, "content": "▁"}, {"type": "Lowercase"}, {"type": "NFKC"},
    {"type": "Strip", "strip_left": True, "strip_right": False}, {"type": "BertNormalizer", "clean_text": True,
     "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
    {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}]},
)  # fmt: skip
TEMPLATES = (
    "{% for m in messages %}{{ m.content }}{% endfor %}", "{{ messages[0]['content'] * 10**9 }}", "{{ x.y }}", "{%",
    "{{ bos_token }}{{ raise_exception('no') }}", "{% for i in range(10**9) %}{% endfor %}", "", "{{ '\ud800' }}",
    "{{ ''.__class__ }}", "{% set ns = namespace(a=1) %}{{ ns.a }}", "{% generation %}x{% endgeneration %}",
)  # fmt: skip


class Tokenizers:
    """The shipped tokenizers, and small ones of every kind."""

    def __init__(self, folder: Path) -> None:
        shipped = small_tokenizer()
        bases = (shipped, shipped, *_small_ones())
        self._bases = [json.dumps(base, ensure_ascii=False).encode() for base in bases]
        self._settings = (DATA / "sources" / "qwen3" / "tokenizer_config.json").read_bytes()
        planted = {**shipped, "added_tokens": [{**shipped["added_tokens"][0], "content": SECRET}]}
        files = {"tokenizer.json": json.dumps(planted), "tokenizer_config.json": json.dumps({"chat_template": SECRET})}
        self.planted = {name: text.encode() for name, text in files.items()} | {"chat_template.jinja": SECRET.encode()}

    def build(self, rng: random.Random, case: Case) -> None:
        files = {"m/tokenizer.json": rng.choice(self._bases), "m/tokenizer_config.json": self._settings}
        if rng.random() < 0.4:
            files["m/chat_template.jinja"] = rng.choice(TEMPLATES).encode("utf-8", "surrogatepass")
        for name in rng.sample(list(files), rng.choice((1, 1, 2))):
            if name.endswith("jinja"):
                files[name] = blind(rng, files[name]) if rng.random() < 0.5 else files[name]
            else:
                files[name] = damaged(rng, files[name], lambda rng, data: changed_json(rng, data, WORDS), aware=0.95)
        case.write(files)
        if rng.random() < 0.08:
            become(rng, case.folder / rng.choice(list(files)), case.outside)

    def examine(self, rng: random.Random, case: Case) -> str:
        folder = case.folder / "m"
        sidecars = find_tokenizer_files(folder)
        described = describe_tokenizer({}, "qwen3", sidecars)
        case.hold_secret(described, json.dumps(described))
        if sidecars.tokenizer is None:
            return "no tokenizer"
        document = sidecar_object(sidecars.tokenizer)
        case.hold_inside("m/tokenizer.json")
        settings = _read(case, lambda: sidecar_object(folder / "tokenizer_config.json")) or {}
        case.hold_secret(document, settings, _read(case, lambda: find_template({}, sidecars)))
        metadata = _read(case, lambda: _as_metadata(document, settings)) or {}
        bounded = _read(case, lambda: hold_program(bounded_program(document, "x")))
        made = bounded and rng.random() < MADE
        if made:
            choice = build_tokenizer(metadata if rng.random() < 0.5 else {}, "qwen3", folder)
            hold_built(choice.checkpoint_tokenizer, parsed((folder / "tokenizer.json").read_bytes()))
            case.hold_secret(
                choice.checkpoint_tokenizer.get_vocab(),
                choice.checkpoint_tokenizer.chat_template,
                choice.source,
                choice.warnings,
            )
            if choice.checkpoint_tokenizer.chat_template:
                case.hold_secret(
                    _read(case, lambda: render(choice.checkpoint_tokenizer, [{"role": "user", "content": "moo"}], True))
                )
        case.hold_files()
        return "made" if made else "bounded" if bounded else "beyond the bounds"


def _read(case: Case, attempt: Any) -> Any:
    """What `attempt` gives; None where it is rejected."""
    try:
        return attempt()
    except AprnbError as error:
        case.hold_secret(str(error))
        return None


def _as_metadata(document: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a Hugging Face folder; the tokenizer that is rebuilt from them is the same."""
    metadata = tokenizer_metadata(document, {}, "x") | special_ids(document, {}, settings)
    described = describe_tokenizer(metadata, "qwen3")
    json.dumps(described)
    whole = reassembled(metadata)
    if whole is not None and isinstance(document.get("model"), Mapping):
        ids, again = (dict(token_ids(one)) for one in (document, whole))
        numbers = list(ids.values())
        if ids != again and len({*map(repr, numbers)}) == len(numbers):
            odd = sorted(ids.keys() ^ again.keys())[:3] or [text for text in ids if ids[text] != again[text]][:3]
            raise WrongVerdict(f"put together again, the tokenizer differs in {odd}")
    return metadata


def token_ids(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Text and id of each token of a tokenizer.json; an added one counts after the vocabulary's own."""
    vocabulary = document["model"].get("vocab")
    if isinstance(vocabulary, Mapping):
        yield from vocabulary.items()
    added = document.get("added_tokens")
    for token in added if isinstance(added, list) else ():
        if isinstance(token, Mapping) and isinstance(token.get("content"), str):
            yield token["content"], token.get("id")


def hold_program(program: Mapping[str, Any]) -> bool:
    """Raises WrongVerdict where a program exceeds its bounds after all: steps, growth, what cuts a text."""
    if program["truncation"] is not None or program["padding"] is not None or program["model"].get("dropout"):
        raise WrongVerdict("truncation, padding or dropout are left")
    parts = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
    count = sum(1 for part in parts for _ in _steps(program.get(part)))
    if count > MAX_STEPS:
        raise WrongVerdict(f"{count} steps")
    for together in (parts[:2], parts[3:]):  # these work on the same text
        growth = math.prod(_growth(step) for part in together for step in _steps(program.get(part)))
        if growth > MAX_GROWTH:
            raise WrongVerdict(f"text grows {growth:.0f} times")
    return True


def _growth(step: Mapping[str, Any]) -> float:
    literal = step["pattern"].get("String") if isinstance(step.get("pattern"), dict) else None
    if step.get("type") != "Replace" or not isinstance(literal, str) or not isinstance(step.get("content"), str):
        return 1.0
    return max(1.0, len(step["content"]) / max(1, len(literal)))


def _steps(step: Any) -> Iterator[dict[str, Any]]:
    """Every object with a type of its own below `step`."""
    if isinstance(step, dict):
        if isinstance(step.get("type"), str):
            yield step
        for key in ("normalizers", "pretokenizers", "processors", "decoders"):
            for inner in step.get(key) or () if isinstance(step.get(key), list) else ():
                yield from _steps(inner)


def hold_built(plain: Any, document: Mapping[str, Any] | None = None) -> None:
    """Raises WrongVerdict where a tokenizer that was made has other tokens than its tokenizer.json, or limits."""
    backend = plain.backend_tokenizer
    if backend.truncation is not None or backend.padding is not None:
        raise WrongVerdict("the tokenizer cuts or pads")
    for name, text in plain.special_tokens_map.items():
        if backend.token_to_id(text) is None:
            raise WrongVerdict(f"{name} {text!r} is not a token")
    if document is not None:
        found, wanted = plain.get_vocab(), dict(token_ids(document))
        wrong = [text for text, number in wanted.items() if found.get(text) != number]
        if wrong:
            raise WrongVerdict(f"{wrong[0]!r} has the id {found.get(wrong[0])}, the file gives {wanted[wrong[0]]}")


def _small_ones() -> Iterator[dict[str, Any]]:
    """A tokenizer of each model with a few steps of each kind."""
    vocabulary = {text: number for number, text in enumerate(["<unk>", *"abcdefgh▁", "ab", "abc"])}
    token = {"id": 20, "content": "<s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True}  # fmt: skip
    models: tuple[dict[str, Any], ...] = (
        {"type": "BPE", "vocab": vocabulary, "merges": [["a", "b"], ["ab", "c"]], "unk_token": "<unk>", "dropout": None,
         "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False},
        {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
        {"type": "WordPiece", "vocab": vocabulary, "unk_token": "<unk>", "continuing_subword_prefix": "##",
         "max_input_chars_per_word": 100},
        {"type": "Unigram", "vocab": [[text, -float(number)] for text, number in vocabulary.items()], "unk_id": 0},
    )  # fmt: skip
    pieces = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    for place, model in enumerate(models):
        number, steps = len(vocabulary), list(STEPS[2 * place : 2 * place + 2])
        yield {
            "version": "1.0", "truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0}, "padding": None,
            "added_tokens": [{**token, "id": number}], "normalizer": {"type": "Sequence", "normalizers": steps},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
                {"type": "Split", "pattern": {"Regex": r"\s+"}, "behavior": "Isolated", "invert": False},
                {"type": "Digits", "individual_digits": True}]},
            "post_processor": {"type": "TemplateProcessing", "single": pieces, "pair": pieces,
                               "special_tokens": {"<s>": {"id": "<s>", "ids": [number], "tokens": ["<s>"]}}},
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": model,
        }  # fmt: skip
