"""Untrusted tokenizer.json files: each is rejected or harmless, in seconds, in little memory, without a crash."""

from __future__ import annotations

import base64
import copy
import json
import os
import random
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from registry import way
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import aprnb
from aprnb import cli
from aprnb.errors import AprnbError, TokenizerError
from aprnb.tokenizer.choose import build_tokenizer
from aprnb.tokenizer.description import describe_tokenizer
from aprnb.tokenizer.fast_tokenizer import parsed_tokenizer
from aprnb.tokenizer.sandbox.tokenizer_process import row_encoder
from aprnb.tokenizer.sandbox.tokenizer_program import MAX_ADDED, MAX_ADDED_TEXT, MAX_PATTERN, MAX_STEPS, bounded_program
from aprnb_tests import safetensors_bytes as s

TESTS = Path(__file__).parents[1]
QWEN = TESTS / "data" / "sources" / "qwen3"
SOURCE: dict[str, Any] = json.loads((QWEN / "tokenizer.json").read_text())
"""A byte-level tokenizer of 824 tokens and three added ones."""
END, START, STOP = SOURCE["added_tokens"]
MOST_SECONDS, MOST_BYTES = 20, 200 << 20
Step = dict[str, Any]


def changed(**parts: Any) -> dict[str, Any]:
    return {**copy.deepcopy(SOURCE), **parts}


def model(**parts: Any) -> dict[str, Any]:
    return changed(model={**SOURCE["model"], **parts})


def small(kind: str, vocabulary: Any, **parts: Any) -> dict[str, Any]:
    """A model of another kind, without added tokens."""
    return changed(model={"type": kind, "vocab": vocabulary, **parts}, added_tokens=[])


def unigram(*pieces: list[Any], unknown: Any = 0) -> dict[str, Any]:
    return small("Unigram", list(pieces), unk_id=unknown, byte_fallback=False)


def added(content: Any, number: Any = 827, **more: Any) -> dict[str, Any]:
    return changed(added_tokens=[*SOURCE["added_tokens"], {**END, "content": content, "id": number, **more}])


def replace(pattern: str, content: str, kind: str = "String") -> Step:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def normalize(*steps: Any) -> dict[str, Any]:
    return changed(normalizer={"type": "Sequence", "normalizers": list(steps)})


def pre_tokenize(*steps: Any) -> dict[str, Any]:
    return changed(pre_tokenizer={"type": "Sequence", "pretokenizers": list(steps)})


def decode(*steps: Any) -> dict[str, Any]:
    return changed(decoder={"type": "Sequence", "decoders": list(steps)})


def split(pattern: str) -> dict[str, Any]:
    return pre_tokenize({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False})


def template(pieces: list[Any], special: Mapping[str, Any] | None = None) -> Step:
    return {"type": "TemplateProcessing", "single": pieces, "pair": [TEXT], "special_tokens": special or {}}


def processors(*steps: Any) -> dict[str, Any]:
    return changed(post_processor={"type": "Sequence", "processors": list(steps)})


def sequence(step: Step, _: int = 0) -> Step:
    return {"type": "Sequence", "normalizers": [step or {"type": "Lowercase"}]}


def strip(start: int, stop: int) -> Step:
    return {"type": "Strip", "content": "a", "start": start, "stop": stop}


def word_pieces(longest: float, prefix: str = "x", unknown: str = "a") -> dict[str, Any]:
    settings = {"unk_token": unknown, "continuing_subword_prefix": prefix, "max_input_chars_per_word": longest}
    return small("WordPiece", {"a": 0}, **settings)


def adding(texts: Iterable[str], options: Callable[[int], dict[str, Any]] = lambda at: {}) -> dict[str, Any]:
    """Added tokens after the three of the source."""
    more = [{**END, "id": 827 + at, "content": text, **options(at)} for at, text in enumerate(texts)]
    return changed(added_tokens=[*SOURCE["added_tokens"], *more])


def charsmap(sign: str, text: str) -> str:
    """SentencePiece's normalisation of one ASCII sign: a double-array trie with one leaf, then the texts."""
    units = [0] * 512
    units[ord(sign)] = 256 << 10 | 1 << 8 | ord(sign)  # offset 256, has a leaf, label
    trie = struct.pack("<512I", *units)
    return base64.b64encode(struct.pack("<I", len(trie)) + trie + text.encode() + b"\0").decode()


def precompiled(text: Any) -> dict[str, Any]:
    return {"type": "Precompiled", "precompiled_charsmap": text}


TEXT, UNKNOWN = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "x", "type_id": 0}}
BYTES, FIXED = {"type": "ByteLevel"}, {"type": "FixedLength", "length": 1}
METASPACE = {"type": "Metaspace", "replacement": "x", "prepend_scheme": "always", "split": False}
GARBAGE = base64.b64encode(struct.pack("<I", 400) + bytes(range(200)) * 2 + b"a" * 100 + b"\0").decode()
RANDOM = random.Random(1)
DISTINCT = [["".join(RANDOM.choices("abcdefghijklmnop", k=4_000)), -1.0] for _ in range(250)]
"""Pieces of 1 MB that share no beginnings: a trie of them has as many nodes, of some 340 bytes each."""


@dataclass(frozen=True)
class Case:
    """`message` is None for what is harmless; `text_s` is a shorter clock for texts than the usual one."""

    document: Mapping[str, Any]
    message: str | None
    text_s: float | None = None


def rejected(message: str, document: Mapping[str, Any], text_s: float | None = None) -> Case:
    return Case(document, message, text_s)


def harmless(document: Mapping[str, Any]) -> Case:
    return Case(document, None)


def special(*ids: int) -> dict[str, Any]:
    """A post-processor that puts these ids in front."""
    piece = {"id": "x", "ids": list(ids), "tokens": ["x"] * len(ids)}
    return changed(post_processor=template([UNKNOWN, TEXT], {"x": piece}))


LONG, UNTYPED = "times longer", "a step without a type"
MULTIPLYING = {
    "replacements in a row": rejected(LONG, normalize(*[replace("a", "a" * 64)] * 6)),
    "replacements in sequences in sequences": rejected(
        LONG, normalize(replace("a", "a" * 200), sequence(sequence(replace("a", "a" * 200))))
    ),
    "replacements in the decoder": rejected(LONG, decode(*[replace("a", "a" * 200)] * 2)),
    "bytes of bytes in normalizer and pre-tokenizer": rejected(
        LONG, normalize(*[BYTES] * 3) | {"pre_tokenizer": pre_tokenize(*[BYTES] * 3)["pre_tokenizer"]}
    ),
    "bytes of bytes, for one sign only": rejected(
        LONG, normalize(replace("[^a-z]", "", "Regex"), replace("q", "é"), *[BYTES] * 40)
    ),
    "expressions that match between signs": rejected(LONG, normalize(*[replace("x*", "aa", "Regex")] * 8)),
    "decompositions that are composed again": rejected(LONG, normalize(*[{"type": "NFKD"}, replace("ل", "ﷺ")] * 20)),
    "a normalisation that lengthens": rejected(LONG, normalize(*[precompiled(charsmap("q", "q" * 100))] * 2)),
    "a sign before each sign": rejected(LONG, pre_tokenize(*[FIXED, METASPACE] * 20)),
    "long texts in front": rejected(LONG, normalize(*[{"type": "Prepend", "prepend": "a" * 256}] * 2)),
    "a longer text in front": rejected("prepend of 100,000", normalize({"type": "Prepend", "prepend": "a" * 100_000})),
    "steps without a type": rejected(UNTYPED, normalize(*[{"pattern": {"String": "q"}, "content": "q" * 99}] * 8)),
    "steps whose type is null": rejected(UNTYPED, normalize(*[{**replace("q", "q" * 99), "type": None}] * 8)),
    "20,000 pieces": rejected("single of 20,000", changed(post_processor=template([TEXT] * 20_000))),
    "64 times the text": rejected("too many tokens", changed(post_processor=template([TEXT] * 64))),
    "pieces of pieces": rejected("is not a valid tokenizer", processors(*[template([TEXT] * 64)] * 3)),
    "a special piece of 999 tokens": rejected("of 999", special(*[1] * 999)),
    "65 steps": rejected("too many steps", normalize(*[{"type": "Lowercase"}] * MAX_STEPS)),
    "200 sequences in each other": rejected("too many steps", changed(normalizer=reduce(sequence, range(200), {}))),
    "replacements of nothing by nothing": harmless(normalize(*[replace("", "", "Regex")] * 30)),
    "one doubling": harmless(normalize(replace("a", "aa"))),
}  # fmt: skip

ENDLESS = {
    "alternatives that overlap": rejected("is not a valid tokenizer", split(r"(a|a|aa)+$|(a*)*b\1c")),
    "slow on any text": rejected("ran longer than 2 s", split("(?:.|.){21}(?!)"), text_s=2),
    "slow on the rows alone": rejected("is not a valid tokenizer", split("Q(?:.|.)*(?!)")),
    "slow on the rows, in the normalizer": rejected(
        "is not a valid tokenizer", normalize(replace("^Q(a|aa)+$", "x", "Regex"))
    ),
    "endless recursion": rejected("is not a valid tokenizer", split(r"(?<x>\g<x>?.)")),
    "not an expression": rejected("is not a valid tokenizer", split("(((")),
    "a long expression": rejected("pattern of 4,097", split("a" * (MAX_PATTERN + 1))),
    "slow on no token, in the decoder": harmless(decode(replace("QQ(?:.|.)*(?!)", "", "Regex"))),
    "groups in groups": harmless(split("(" * 2_000 + "a" + ")" * 2_000)),
    "repetitions of repetitions": harmless(split("((((a{1,1000}){1,1000}){1,1000}){1,1000})")),
}

ODD = "is not a valid tokenizer"
"""What the library says no to, when it loads the tokenizer or uses it."""
CRASHING = {
    "a strip beyond the token": rejected(ODD, decode(strip(64, 64))),
    "a strip of a billion": rejected("has start 10", decode(strip(10**9, 10**9))),
    "a negative strip": rejected("has start -1", decode(strip(-1, 0))),
    "pieces of no length": rejected(ODD, pre_tokenize({"type": "FixedLength", "length": 0})),
    "pieces of 2⁶³": rejected("has length 9", pre_tokenize({"type": "FixedLength", "length": 1 << 63})),
    "a delimiter of two signs": rejected(ODD, pre_tokenize({"type": "CharDelimiterSplit", "delimiter": "aa"})),
    "a delimiter that is NUL": harmless(pre_tokenize({"type": "CharDelimiterSplit", "delimiter": "\0"})),
    "affixes longer than a word": rejected(
        ODD, model(continuing_subword_prefix="x" * 200, end_of_word_suffix="y" * 200)
    ),
    "a piece that is not there": rejected(ODD, changed(post_processor=template([UNKNOWN]))),
    "a special id beyond 31 bits": rejected(ODD, special(1 << 31)),
    "a special id beyond 32 bits": rejected(ODD, special(1 << 32)),
    "ids beyond 31 bits": rejected(ODD, small("BPE", {"a": (1 << 32) - 1}, merges=[])),
    "negative ids": rejected(ODD, small("BPE", {"a": -1}, merges=[])),
    "one id for two tokens": harmless(small("BPE", {"a": 0, "b": 0}, merges=[])),
    "a normalisation of garbage": rejected(ODD, normalize(precompiled(GARBAGE))),
    "a normalisation of four bytes": rejected(ODD, normalize(precompiled("AAAA"))),
    "a normalisation that points outside": rejected("crashes the", normalize(precompiled("/" * 21 + "w=="))),
    "a normalisation without text": rejected(ODD, normalize(precompiled(""))),
    "a normalisation that is null": rejected("an invalid precompiled_charsmap", normalize(precompiled(None))),
    "a normalisation that is not base64": rejected("an invalid precompiled_charsmap", normalize(precompiled("!!"))),
    "an unknown piece out of range": rejected(ODD, unigram(["a", 0.0], ["b", -1.0], unknown=7)),
    "an unknown piece below zero": rejected(ODD, unigram(["a", 0.0], ["b", -1.0], unknown=-1)),
    "no unknown piece": rejected(ODD, unigram(["a", 0.0], ["b", -1.0], unknown=None)),
    "no pieces": rejected(ODD, unigram(unknown=None)),
    "a score that is text": rejected(ODD, unigram(["a", "x"])),
    "a score that is NaN": rejected("NaN is not a JSON number", unigram(["a", float("nan")])),
    "a score that is infinite": rejected("Infinity is not a JSON number", unigram(["a", float("inf")])),
    "scores beyond all sums": harmless(unigram(["a", 1e308], ["aa", 1e308], ["b", -1e308])),
    "an empty piece": harmless(unigram(["", 0.0], ["b", -1.0])),
    "a piece twice": harmless(unigram(["a", 0.0], ["a", -1.0])),
    "merges of unknown tokens": rejected(ODD, model(merges=[["zz", "qq"]])),
    "a merge of three": rejected(ODD, model(merges=["a b c"])),
    "merges twice": harmless(model(merges=SOURCE["model"]["merges"] * 2)),
    "merges that are ignored": harmless(model(ignore_merges=True)),
    "an unknown token that is none": rejected(ODD, model(unk_token="none") | {"pre_tokenizer": None}),
    "bytes that are not there": harmless(
        small("BPE", {"a": 0}, merges=[], byte_fallback=True) | {"pre_tokenizer": None}
    ),
    "an unknown word that is none": rejected(ODD, small("WordLevel", {"a": 0}, unk_token="b")),
    "an unknown word piece that is none": rejected(ODD, word_pieces(9, unknown="b")),
    "an unknown kind of model": rejected(ODD, small("Evil", {"a": 0})),
    "a model that is a list": rejected("has no model", changed(model=[1])),
    "an unknown step": rejected(ODD, changed(normalizer={"type": "Evil"})),
    "a step that is a number": rejected(UNTYPED, changed(normalizer=5)),
    "steps that are an object": rejected("not a list", changed(normalizer={"type": "Sequence", "normalizers": {}})),
    "another version": rejected(ODD, changed(version="9.9")),
    "an unknown part": rejected(ODD, changed(evil=1)),
}  # fmt: skip

FILLING = {
    "words of a billion signs": rejected("takes words of", word_pieces(10**9)),
    "words of a number that is not whole": rejected("takes words of", word_pieces(1e3)),
    "a long prefix of word pieces": harmless(word_pieces(1_000, prefix="x" * 256)),
    "pieces without a common beginning": rejected("too much memory", unigram(["<unk>", 0.0], *DISTINCT)),
    "pieces that begin with each other": harmless(
        unigram(["<unk>", 0.0], *(["a" * size, -1.0] for size in range(1, 700)))
    ),
    "a token of 5,000 characters": rejected("token of 5,000", small("BPE", {"a" * 5_000: 0}, merges=[])),
    "a prefix of 300 characters": rejected("prefix of 300", model(continuing_subword_prefix="x" * 300)),
    "too many added tokens": rejected("adds too many", adding(f"<{at}>" for at in range(MAX_ADDED))),
    "added tokens of much text": rejected(
        r"of 52\d,\d+ characters together", adding(f"{at:05}" + "x" * 4_000 for at in range(MAX_ADDED_TEXT // 4_000))
    ),
    "3,000 added tokens, special by turns": harmless(
        adding((f"<{at}>" for at in range(3_000)), lambda at: {"special": at % 2 == 0})
    ),
}  # fmt: skip

OTHER = "the id {}; the tokenizers library gives it {}"
MISNUMBERED = {
    "without text": rejected("adds a token without text", added("")),
    "without content": rejected("adds a token without text", changed(added_tokens=[{"id": 827}])),
    "with a number as text": rejected("adds a token without text", added(7)),
    "that are an object": rejected("adds too many tokens", changed(added_tokens={"a": 1})),
    "with the text of another": rejected(OTHER.format(827, 824), added(END["content"])),
    "with the id of another": rejected(OTHER.format(824, 827), added("<x>", 824)),
    "beyond the vocabulary": rejected(OTHER.format(1000, 827), added("<x>", 1_000)),
    "beyond everything": rejected(OTHER.format(4294967295, 827), added("<x>", (1 << 32) - 1)),
    "below zero": rejected("is not a valid tokenizer", added("<x>", -1)),
    "in another order": rejected(OTHER.format(825, 824), changed(added_tokens=[START, END, STOP])),
    "that swap their ids": rejected(
        OTHER.format(825, 824), changed(added_tokens=[{**END, "id": 825}, {**START, "id": 824}, STOP])
    ),
    "that are a token already": rejected(OTHER.format(827, 68), added("e")),
    "that are a token already, under its id": harmless(added("e", 68)),
    "that are a space and take those around it": harmless(added(" ", lstrip=True, rstrip=True)),
}

PADDING = {"direction": "Right", "pad_to_multiple_of": 10**9, "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}
CUTTING = {
    "a length of 2 and a stride of 5": harmless(
        changed(truncation={"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 5})
    ),
    "a length of 0": harmless(
        changed(truncation={"direction": "Left", "max_length": 0, "strategy": "OnlySecond", "stride": 0})
    ),
    "a truncation that is none": harmless(changed(truncation="x")),
    "padding to a billion": harmless(changed(padding={**PADDING, "strategy": {"Fixed": 10**9}})),
    "dropout": harmless(model(dropout=0.999)),
    "a dropout that is text": harmless(model(dropout="x")),
}

TABLES = {
    "multiplying": MULTIPLYING, "endless": ENDLESS, "crashing": CRASHING, "filling": FILLING,
    "misnumbered": MISNUMBERED, "cutting": CUTTING,
}  # fmt: skip

ROWS = ["Spell the word cow. " * 20, "Q" + "a" * 200 + "b", "ß 🎉 " * 50, ""]
CHILD = """
import json, sys, time
from pathlib import Path
from aprnb.errors import AprnbError
from aprnb.tokenizer.sandbox import tokenizer_process
from aprnb.tokenizer.choose import build_tokenizer
from aprnb_tests.memory import forget_peak, peak
folder = Path(sys.argv[1])
(folder / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
rows = json.loads(sys.argv[2])
usual = tokenizer_process.TEXT_S
for path in sorted(folder.glob("*.case")):
    print(f"== {path.stem}", file=sys.stderr, flush=True)
    case = json.loads(path.read_text())
    (folder / "tokenizer.json").write_text(case.pop("document"))
    tokenizer_process.TEXT_S = case["text_s"] or usual
    found = {"error": None, "tokens": None}
    before, began = forget_peak(), time.monotonic()
    try:
        plain = build_tokenizer({}, "qwen3", folder).checkpoint_tokenizer
        with tokenizer_process.row_encoder(plain) as encode:
            found["tokens"] = [len(row.ids) for row in encode(rows)]
        plain.get_vocab(), plain.added_tokens_decoder
    except AprnbError as error:
        found["error"] = {"kind": type(error).__name__, "message": str(error)}
    print(json.dumps({**found, "name": path.stem, "seconds": time.monotonic() - began, "grown": peak() - before}))
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, dict[str, Any]]:
    """The results of all cases in one process, each with its time, memory and output on standard error."""
    folder = tmp_path_factory.mktemp("cases")
    numbers = {}
    for table, cases in TABLES.items():
        for name, case in cases.items():
            number = numbers[table, name] = f"{len(numbers):03d}"
            content = {"document": json.dumps(case.document), "text_s": case.text_s}
            (folder / f"{number}.case").write_text(json.dumps(content))
    places = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    environment = {**os.environ, "PYTHONPATH": places, "RUST_BACKTRACE": "0"}  # a backtrace takes time to write
    run = subprocess.run(
        [sys.executable, "-c", CHILD, folder, json.dumps(ROWS)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found = {(line := json.loads(text))["name"]: line for text in run.stdout.splitlines()}
    for part in run.stderr.split("== ")[1:]:
        number, _, said = part.partition("\n")
        found[number]["said"] = said
    return {f"{table}: {name}": found[number] for (table, name), number in numbers.items()}


def hold(outcomes: Mapping[str, Mapping[str, Any]], table: str, name: str) -> None:
    case, found = TABLES[table][name], outcomes[f"{table}: {name}"]
    assert found["said"] == ""
    assert found["seconds"] < MOST_SECONDS
    assert found["grown"] < MOST_BYTES
    if case.message is None:
        assert found["error"] is None
        return
    assert found["error"] is not None, found["tokens"]
    assert found["error"]["kind"] == "TokenizerError"
    message = found["error"]["message"]
    assert len(message) < 900
    assert re.search(case.message, message), message


@way("a tokenizer whose steps multiply text")
@pytest.mark.parametrize("name", MULTIPLYING)
def test_steps_that_multiply_text_are_rejected(outcomes, name):
    hold(outcomes, "multiplying", name)


@way("a tokenizer whose regular expressions do not end")
@pytest.mark.parametrize("name", ENDLESS)
def test_regular_expressions_end_in_time(outcomes, name):
    hold(outcomes, "endless", name)


@way("a tokenizer that crashes the tokenizers library")
@pytest.mark.parametrize("name", CRASHING)
def test_input_that_crashes_the_library_is_an_aprnb_error(outcomes, name):
    hold(outcomes, "crashing", name)


@way("a tokenizer that fills the memory")
@pytest.mark.parametrize("name", FILLING)
def test_memory_is_bounded(outcomes, name):
    hold(outcomes, "filling", name)


@way("added tokens with other ids than the library gives them")
@pytest.mark.parametrize("name", MISNUMBERED)
def test_added_tokens_have_the_ids_that_are_used(outcomes, name):
    hold(outcomes, "misnumbered", name)


@way("a tokenizer that cuts, pads or drops at random")
@pytest.mark.parametrize("name", CUTTING)
def test_cutting_and_padding_are_dropped(outcomes, name):
    hold(outcomes, "cutting", name)
    source = Tokenizer.from_str(json.dumps(SOURCE))
    assert outcomes[f"cutting: {name}"]["tokens"] == [len(source.encode(row).ids) for row in ROWS]


@way("a tokenizer that cuts, pads or drops at random")
@pytest.mark.parametrize("name", CUTTING)
def test_long_texts_keep_all_their_ids(name):
    text = "Spell the word cow. " * 2_000
    found = parsed_tokenizer(CUTTING[name].document, "x").encode(text).ids
    assert found == Tokenizer.from_str(json.dumps(SOURCE)).encode(text).ids


@pytest.fixture(scope="module")
def checkpoint(pocket_qwen3, tmp_path_factory) -> Path:
    """A folder with the pocket model; tests change its tokenizer.json."""
    return s.folder_of(pocket_qwen3, QWEN, tmp_path_factory.mktemp("model") / "hf")


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = [{"instruction": "Q" + "a" * 40 + str(at), "response": "a" * 40} for at in range(4)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


PLANNED = [
    ("multiplying", "replacements in a row"),
    ("endless", "slow on the rows alone"),
    ("crashing", "a normalisation of garbage"),
    ("misnumbered", "in another order"),
]


@pytest.mark.parametrize(("table", "name"), PLANNED)
def test_a_plan_over_such_a_tokenizer_ends_as_building_it_does(checkpoint, rows, capfd, table, name):
    (checkpoint / "tokenizer.json").write_text(json.dumps(TABLES[table][name].document))
    with pytest.raises(TokenizerError, match=TABLES[table][name].message):
        aprnb.plan(checkpoint, data=rows)
    assert "panic" not in capfd.readouterr().err


def test_a_plan_has_all_tokens_of_rows_that_the_tokenizer_would_cut(checkpoint, rows):
    planned = []
    for document in (SOURCE, CUTTING["a length of 2 and a stride of 5"].document):
        (checkpoint / "tokenizer.json").write_text(json.dumps(document))
        planned.append(aprnb.plan(checkpoint, data=rows))
    assert planned[0].tokens == planned[1].tokens > 100


def test_the_command_line_ends_with_the_tokenizer_s_exit_code(checkpoint, rows, capfd):
    (checkpoint / "tokenizer.json").write_text(json.dumps(ENDLESS["slow on the rows alone"].document))
    code = cli.main(["plan", str(checkpoint), "--data", str(rows), "--json"])
    said = capfd.readouterr()
    assert code == json.loads(said.out)["error"]["exit_code"] == TokenizerError.exit_code
    assert "panic" not in said.err


def sound() -> dict[str, dict[str, Any]]:
    """The shapes of published tokenizers whose steps lengthen text the most."""
    spaces = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    albert = [replace("``", '"'), replace("''", '"'), {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}]
    long = precompiled(charsmap("q", "ﷺ" * 18))  # as long as the longest text of SentencePiece's own normalisations
    bert = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True}
    return {
        "ALBERT": {**normalize(*albert, long, replace(" {2,}", " ", "Regex")), "pre_tokenizer": spaces},
        "T5": {**normalize(long), "pre_tokenizer": pre_tokenize({"type": "WhitespaceSplit"}, spaces)["pre_tokenizer"]},
        "BERT": {**changed(normalizer=bert), "pre_tokenizer": {"type": "BertPreTokenizer"}},
        "CLIP": normalize({"type": "NFC"}, replace(r"\s+", " ", "Regex"), {"type": "Lowercase"}),
        "Llama 2": {
            **normalize({"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")),
            "decoder": decode(replace("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"}, strip(1, 0))["decoder"],
        },
    }  # fmt: skip


@pytest.mark.parametrize("name", sound())
def test_the_steps_of_published_tokenizers_are_within_the_bounds(name):
    document = sound()[name]
    assert bounded_program(document, "x")["normalizer"] == document["normalizer"]


@way("a tokenizer that fills the memory")
def test_added_tokens_of_the_metadata_are_bounded_too(pocket_qwen3):
    """These are made without a child process: their steps are ours."""
    metadata = dict(aprnb.open(pocket_qwen3).metadata)
    texts = [f"<{at:04}{'x' * 4_000}>" for at in range(MAX_ADDED_TEXT // 4_000)]
    metadata["tokenizer.vocabulary"] = metadata["tokenizer.vocabulary"][:827] + texts
    with pytest.raises(TokenizerError, match=r"added tokens have 52\d,\d+ characters together"):
        build_tokenizer(metadata, "qwen3")


# What is stated twice


@pytest.fixture(scope="module")
def written(checkpoint, tmp_path_factory) -> dict[str, Any]:
    """The metadata that a conversion writes, with the whole tokenizer.json in `hf_tokenizer`."""
    (checkpoint / "tokenizer.json").write_text(json.dumps(SOURCE))
    path = tmp_path_factory.mktemp("apr") / "x.apr"
    aprnb.convert(checkpoint, path)
    metadata = dict(aprnb.open(path).metadata)
    rest = {key: value for key, value in metadata["hf_tokenizer"].items() if key != "ids_in_vocabulary"}
    return {**metadata, "hf_tokenizer": {**rest, "model": SOURCE["model"]}}


def swapped() -> dict[str, int]:
    vocabulary = dict(SOURCE["model"]["vocab"])
    first, second = list(vocabulary)[300:302]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    return vocabulary


def fewer() -> dict[str, int]:
    return dict(list(SOURCE["model"]["vocab"].items())[:-1])


def whole(**parts: Any) -> dict[str, Any]:
    return {"hf_tokenizer": {**SOURCE, "model": {**SOURCE["model"], **parts}}}


DIFFERING: dict[str, dict[str, Any]] = {
    "ids that are swapped": whole(vocab=swapped()),
    "a token that is missing": whole(vocab=fewer()),
    "a token more": whole(vocab={**SOURCE["model"]["vocab"], "more": 900}),
    "an id beyond the list": whole(vocab={**SOURCE["model"]["vocab"], "more": 10**6}),
    "an id that is text": whole(vocab={**SOURCE["model"]["vocab"], "a": "64"}),
    "other merges": whole(merges=SOURCE["model"]["merges"][1:]),
    "merges in another order": whole(merges=SOURCE["model"]["merges"][::-1]),
    "added tokens of other ids": {
        "hf_tokenizer": {**SOURCE, "added_tokens": [{**END, "id": 825}, {**START, "id": 824}, STOP]}
    },
    "another end token": {"special_tokens": {"eos_token": END["content"]}},
    "an end token that is none": {"special_tokens": {"eos_token": "<none>"}},
    "an end token that is a number": {"special_tokens": {"eos_token": 826}},
    "an end token without an id": {"tokenizer.eos_token_id": None},
    "an end token's id beyond the list": {"tokenizer.eos_token_id": 5_000},
    "a negative id": {"tokenizer.eos_token_id": -1},
}  # fmt: skip


@way("merges, special tokens or added tokens that are stated twice and differ")
@pytest.mark.parametrize("name", DIFFERING)
def test_two_statements_that_differ_are_a_warning_on_the_card_and_at_loading(written, name):
    metadata = {**written, **DIFFERING[name]}
    card, choice = describe_tokenizer(metadata, "qwen3"), build_tokenizer(metadata, "qwen3")
    found = {text for text in choice.warnings if "two different tokenizers" in text or "special_tokens says" in text}
    assert len(found) == 1
    assert found <= set(card["warnings"])
    shown = [(at, text) for at, text in enumerate(metadata["tokenizer.vocabulary"]) if text != f"[PAD{at}]"]
    assert all(choice.checkpoint_tokenizer.backend_tokenizer.token_to_id(text) == at for at, text in shown)
    if card["eos"] is not None and name != "an end token that is a number":
        assert choice.checkpoint_tokenizer.eos_token_id == card["eos"]["id"]


@way("merges, special tokens or added tokens that are stated twice and differ")
@pytest.mark.parametrize(
    ("key", "value"), [("tokenizer.vocabulary", "abc"), ("tokenizer.vocabulary", {"a": 1}), ("tokenizer.merges", "a b")]
)
def test_lists_of_another_type_are_rejected_though_hf_tokenizer_is_whole(written, key, value):
    metadata = {**written, key: value}
    assert key in describe_tokenizer(metadata, "qwen3")["problem"]
    with pytest.raises(TokenizerError, match=key):
        build_tokenizer(metadata, "qwen3")


def test_equal_statements_give_no_warning(written):
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in SOURCE["model"]["merges"]]
    for metadata in (written, {**written, "tokenizer.merges": merges}, {**written, **whole(merges=merges)}):
        card, choice = describe_tokenizer(metadata, "qwen3"), build_tokenizer(metadata, "qwen3")
        assert (card["problem"], card["warnings"], choice.warnings) == (None, [], ())
        assert choice.source == "metadata hf_tokenizer"
        assert choice.checkpoint_tokenizer.eos_token_id == card["eos"]["id"]


def test_two_templates_that_differ_are_a_warning_and_the_one_that_is_shown_is_used(written):
    metadata = {**written, "chat_template": "{{ 1 }} shown", "tokenizer.chat_template": "{{ 2 }}"}
    card, choice = describe_tokenizer(metadata, "qwen3"), build_tokenizer(metadata, "qwen3")
    assert choice.checkpoint_tokenizer.chat_template == "{{ 1 }} shown"
    assert card["chat_template"] == {"source": "metadata chat_template", "characters": 13}
    assert card["warnings"] == list(choice.warnings)
    assert "two different chat templates" in card["warnings"][0]
    same = {**metadata, "tokenizer.chat_template": "{{ 1 }} shown"}
    assert describe_tokenizer(same, "qwen3")["warnings"] == [] == list(build_tokenizer(same, "qwen3").warnings)


@pytest.mark.parametrize("differ", [True, False])
def test_a_folder_s_template_file_goes_before_its_settings(checkpoint, rows, differ):
    (checkpoint / "tokenizer.json").write_text(json.dumps(SOURCE))
    settings = json.loads((QWEN / "tokenizer_config.json").read_text())
    text = settings["chat_template"] + "{# shown #}" * differ
    (checkpoint / "chat_template.jinja").write_text(text)
    try:
        report = aprnb.inspect(checkpoint)
        plan = aprnb.plan(checkpoint, data=rows)
        with aprnb.open(checkpoint) as opened:
            choice = build_tokenizer(opened.metadata, "qwen3", checkpoint)
    finally:
        (checkpoint / "chat_template.jinja").unlink()
    assert choice.checkpoint_tokenizer.chat_template == text
    assert report.tokenizer["chat_template"]["characters"] == len(text)
    for warnings in (report.warnings, plan.warnings):
        assert any("two different chat templates" in warning for warning in warnings) == differ


def trained(kind: str) -> dict[str, Any]:
    """A small tokenizer of another kind, as its library saves it."""
    corpus = ["Spell the word cow. What is two plus one? über façade 你好 🎉"] * 20
    special = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    made = Tokenizer({"WordPiece": models.WordPiece(unk_token="<unk>"), "Unigram": models.Unigram()}[kind])
    if kind == "WordPiece":
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer: Any = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    else:
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    made.train_from_iterator(corpus, trainer)
    return json.loads(made.to_str())


SOURCES = sorted(path.parent.name for path in (TESTS / "data" / "sources").glob("*/tokenizer.json"))


@pytest.mark.parametrize("name", [*SOURCES, "WordPiece", "Unigram"])
def test_what_a_conversion_writes_has_no_warnings(pocket_qwen3, tmp_path, name):
    folder = s.folder_of(pocket_qwen3, QWEN, tmp_path / "hf")
    document = trained(name) if name in ("WordPiece", "Unigram") else None
    source = TESTS / "data" / "sources" / name / "tokenizer.json"
    (folder / "tokenizer.json").write_text(json.dumps(document) if document else source.read_text())
    aprnb.convert(folder, tmp_path / "x.apr")
    with aprnb.open(tmp_path / "x.apr") as checkpoint:
        card = describe_tokenizer(checkpoint.metadata, "qwen3")
        choice = build_tokenizer(checkpoint.metadata, "qwen3", checkpoint.path)
    assert (card["warnings"], choice.warnings) == ([], ())
    assert choice.source == "metadata hf_tokenizer"
    published = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with row_encoder(choice.checkpoint_tokenizer) as encode:
        text = "Spell the word cow. <|im_start|>über 你好 🎉<|im_end|>"
        assert encode([text])[0].ids.tolist() == published.encode(text, add_special_tokens=False).ids


def test_an_error_names_the_file(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(MULTIPLYING["replacements in a row"].document))
    with pytest.raises(AprnbError, match=str(tmp_path / "tokenizer.json")):
        build_tokenizer({}, "qwen3", tmp_path)
