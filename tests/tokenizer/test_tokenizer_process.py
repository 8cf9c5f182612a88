"""The child process in which untrusted tokenizers run: the library's own answers, or one error and no process left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from aprnb.errors import TokenizerError
from aprnb.tokenizer.facts import read_facts
from aprnb.tokenizer.fast_tokenizer import sentencepiece_tokenizer
from aprnb.tokenizer.sandbox import tokenizer_process
from aprnb.tokenizer.sandbox.tokenizer_process import MAX_BATCH_BYTES, TokenizerProcess, interruptible, try_out

TESTS = Path(__file__).parents[1]
SOURCES = sorted((TESTS / "data" / "sources").glob("*/tokenizer.json"))
TEXTS = [
    *tokenizer_process.PROBES, "Hello 12345 don't I'LL über façade", "Ελληνικά γράμματα", "Привет, мир! Ёлка",
    "مرحبا بالعالم ١٢٣", "שלום עולם", "नमस्ते दुनिया", "தமிழ்", "বাংলা", "สวัสดีชาวโลก", "ខ្មែរ", "བོད་ཡིག", "አማርኛ",
    "ქართული", "你好，世界。", "こんにちは世界 カタカナ", "안녕하세요 세계", "👩‍👩‍👧‍👦 🎉🏳️‍🌈", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈", "ﷺ ﬃ ﬁ Ⅷ ①",
    "İstanbul ß ẞ ſ",
    "def f(x):\n\treturn x**2  # ok\n\n\nfoo_bar()", "   a   b \t\n  \r\n x\u00a0\u3000y ", "e\u0301 é A\u030a Å",
    "<|im_start|>user\nHi<|im_end|>there<|endoftext|><|im_end", "<s>a</s> <unk> [PAD900]", "\0", "a\0b" * 20,
    "\x01\x1b[31m", "\ufeffBOM", "\u202eRTL\u202c", "\r\n\r\n \r", "0123456789" * 9, '{"k": [1, 2.5e-3, null]}',
]  # fmt: skip


def trained(made: Tokenizer, trainer: type, **options: Any) -> Tokenizer:
    corpus = [text for text in TEXTS if len(text) < 300] * 3
    special = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    made.train_from_iterator(corpus, trainer(special_tokens=special, show_progress=False, **options))
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return made


def word_piece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    return trained(made, trainers.WordPieceTrainer, vocab_size=300)


def unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return trained(made, trainers.UnigramTrainer, vocab_size=300, unk_token="<unk>")


def sentencepiece() -> Tokenizer:
    held = json.loads((TESTS / "data" / "tokenizers" / "sentencepiece-bpe.json").read_text())
    ids = {"tokenizer.bos_token_id": 1, "tokenizer.eos_token_id": 2, "tokenizer.add_bos_token": True}
    lists = {f"tokenizer.{name}": held[name] for name in ("scores", "vocabulary", "token_type")}
    return sentencepiece_tokenizer(read_facts({**lists, **ids, "tokenizer.model": "llama"}))


def words() -> Tokenizer:
    made = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


KINDS = {path.parent.name: path.read_text() for path in SOURCES}
KINDS |= {make.__name__: make().to_str() for make in (word_piece, unigram, sentencepiece, words)}


@pytest.mark.parametrize("name", KINDS)
def test_ids_and_offsets_are_those_of_the_library(name):
    library = Tokenizer.from_str(KINDS[name])
    try_out(KINDS[name], "x")
    with TokenizerProcess(KINDS[name], "x") as process:
        for special in (False, True):
            found = process.encode(TEXTS, special=special)
            for text, one, expected in zip(
                TEXTS, found, library.encode_batch(TEXTS, add_special_tokens=special), strict=True
            ):
                assert one.ids.tolist() == expected.ids, text
                assert [*map(tuple, one.offsets.tolist())] == expected.offsets, text


def test_more_than_one_batch_keeps_its_order():
    word = "abcdefghijklmnopqrst "
    most = MAX_BATCH_BYTES // len(word)
    texts = [word * size for size in (3, most // 2, 0, most, 7, most // 3, 1)]
    assert len([*tokenizer_process._batches(texts)]) == 2
    with TokenizerProcess(words().to_str(), "x") as process:
        assert [len(one.ids) for one in process.encode(texts)] == [len(text) // len(word) for text in texts]
        assert process.encode([]) == []


def test_half_of_a_surrogate_pair_is_an_error():
    with (
        TokenizerProcess(words().to_str(), "x") as process,
        pytest.raises(TokenizerError, match="x is not a valid tokenizer"),
    ):
        process.encode(["\ud800"])


# A child that an attacker controls

TOOLS = """
import json, os, signal, struct, sys, time
def read():
    return json.loads(sys.stdin.buffer.read(int.from_bytes(sys.stdin.buffer.read(8), "little")))
def say(answer, size=None):
    sys.stdout.buffer.write((len(answer) if size is None else size).to_bytes(8, "little") + answer)
    sys.stdout.buffer.flush()
def numbers(*values):
    return b"0" + struct.pack(f"<{len(values)}i", *values)
"""
MALFORMED = "the tokenizer's process gave a malformed answer"
BROKEN, SLOW, LARGE = "x takes too much memory, or crashes the", "x ran longer than 2 s", "x makes too many tokens"
ANSWERS = {
    "a count too many": ("say(numbers(5, 1, 1, 1, 1))", MALFORMED),
    "numbers too many": ("say(numbers(0, 1, 1, 1))", MALFORMED),
    "a negative count": ("say(numbers(-1))", MALFORMED),
    "a count of two billion": ("say(numbers(2**31 - 1))", MALFORMED),
    "a negative id": ("say(numbers(1, -1, 0, 1))", MALFORMED),
    "a negative offset": ("say(numbers(1, 1, -5, 1))", MALFORMED),
    "no counts": ("say(b'0')", MALFORMED),
    "a byte too many": ("say(numbers(1, 1, 0, 1) + b'x')", MALFORMED),
    "nothing": ("say(b'')", "x is not a valid tokenizer"),
    "another kind": ("say(b'2')", "x is not a valid tokenizer"),
    "a problem of half a megabyte": ("say(b'1' + b'\\xff' * 500_000)", "x is not a valid tokenizer"),
    "a problem, and then nothing": ("say(b'1no'); time.sleep(99)", "x is not a valid tokenizer: no"),
    "too few bytes, then nothing": ("say(b'0', 1000); time.sleep(99)", SLOW),
    "too few bytes, then the end": ("say(b'0', 1000)", BROKEN),
    "a size of 2⁶⁰": ("say(b'0', 2**60); time.sleep(99)", LARGE),
    "endless output": ("say(b'', 2**60)\nwhile True: sys.stdout.buffer.write(bytes(65536))", LARGE),
    "endless errors": ("while True: sys.stderr.write('x' * 65536)", LARGE),
    "the end": ("os._exit(0)", BROKEN),
    "its own death": ("os.kill(os.getpid(), signal.SIGKILL)", BROKEN),
    "no answer": ("time.sleep(99)", SLOW),
    "no output any more": ("os.close(1); time.sleep(99)", BROKEN),
}  # fmt: skip


@pytest.fixture
def controlled(tmp_path, monkeypatch):
    """`controlled(script)` takes the place of the real child; the clocks are two seconds."""
    monkeypatch.setattr(tokenizer_process, "START_S", 2.0)
    monkeypatch.setattr(tokenizer_process, "TEXT_S", 2.0)

    def control(script: str) -> None:
        (tmp_path / "child.py").write_text(TOOLS + script)
        monkeypatch.setattr(tokenizer_process, "_CHILD", tmp_path / "child.py")

    return control


def rejected(message: str) -> None:
    """TokenizerError with `message`, in little more than the clock, and no process left."""
    began, before = time.monotonic(), psutil.Process().children(recursive=True)
    with pytest.raises(TokenizerError) as caught, TokenizerProcess("{}", "x") as process:
        process.encode(["abc"])
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert time.monotonic() - began < 8
    assert psutil.Process().children(recursive=True) == before


@pytest.mark.parametrize(("script", "message"), ANSWERS.values(), ids=ANSWERS.keys())
def test_a_malformed_answer_is_an_error(controlled, script, message):
    controlled(f"read(); say(b'0'); read()\n{script}")
    rejected(message)


START = {
    "a problem, and then nothing": ("read(); say(b'1no'); time.sleep(99)", "x is not a valid tokenizer: no"),
    "no answer": ("time.sleep(99)", SLOW),
    "the end": ("sys.exit(3)", BROKEN),
    "a size of 2⁶⁰": ("say(b'0', 2**60); time.sleep(99)", LARGE),
    "both answers before the questions": ("say(b'0'); say(numbers(3)); time.sleep(99)", MALFORMED),
}


@pytest.mark.parametrize(("script", "message"), START.values(), ids=START.keys())
def test_a_child_that_is_not_one_from_the_start_is_an_error(controlled, script, message):
    controlled(script)
    rejected(message)


def test_a_child_that_answers_without_reading_a_long_question_is_killed_in_time(controlled):
    controlled("say(b'0'); say(numbers(*[0] * 9)); time.sleep(99)")
    began, before = time.monotonic(), psutil.Process().children(recursive=True)
    with pytest.raises(TokenizerError, match="ran longer"), TokenizerProcess("x" * (1 << 20), "x"):
        pass
    assert time.monotonic() - began < 8
    assert psutil.Process().children(recursive=True) == before


# Ctrl-C, and a parent that is killed

EXPLODING = pre_tokenizers.Split(Regex("Z(?:.|.){21}(?!)"), "isolated")
"""2²¹ attempts at each Z, some 0.1 s: below the library's own limit, which would end it at once."""
SETUP = """
import json, sys
from types import SimpleNamespace
from tokenizers import Tokenizer
from aprnb.tokenizer.sandbox import tokenizer_process
from aprnb.tokenizer.checkpoint_tokenizer import CheckpointTokenizer
text, row = open(sys.argv[1]).read(), ("Z" + "a" * 30) * 1000
def began():
    print("began", flush=True)
"""
STOP = """
try:
    work()
except KeyboardInterrupt:
    print("stopped", flush=True)
"""
WORK = {
    "the first use": """
def work():
    tokenizer_process.PROBES = (row,)
    began()
    tokenizer_process.try_out(text, "x")
""",
    "rows": """
def work():
    with tokenizer_process.row_encoder(CheckpointTokenizer(Tokenizer.from_str(text), untrusted=True)) as encode:
        began()
        encode([row])
""",
    "a prompt": """
def work():
    from transformers import PreTrainedTokenizerFast
    from aprnb.model.generation import generate
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(text))
    began()
    generate(SimpleNamespace(), tokenizer, row, raw=True)
""",
}


@pytest.fixture
def exploding(tmp_path) -> Path:
    made = words()
    made.pre_tokenizer = EXPLODING
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def running(script: str, tokenizer: Path, children: int) -> Iterator[tuple[Any, list[psutil.Process]]]:
    """A process that is at work in `script`, and its children."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    command = [sys.executable, "-c", SETUP + script + STOP, str(tokenizer)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        try:
            assert process.stdout.readline() == "began\n"
            found = psutil.Process(process.pid)
            while len(found.children()) < children:
                time.sleep(0.02)
            time.sleep(0.7)  # into the native code
            assert process.poll() is None
            yield process, found.children(recursive=True)
        finally:
            process.kill()


@pytest.mark.parametrize("name", WORK)
def test_ctrl_c_ends_what_a_tokenizer_does_at_once_and_leaves_no_child(exploding, name):
    for process, children in running(WORK[name], exploding, children=name != "a prompt"):
        assert len(children) == (name != "a prompt")
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "stopped\n"
        assert time.monotonic() - sent < 2
        assert psutil.wait_procs(children, timeout=1)[1] == []


def test_a_child_ends_by_its_own_clock_when_its_parent_was_killed(exploding):
    script = "tokenizer_process.TEXT_S, tokenizer_process.TEXT_S_PER_BYTE = 1, 0\n" + WORK["rows"]
    for process, children in running(script, exploding, children=1):
        process.kill()
        process.wait()
        assert psutil.wait_procs(children, timeout=6)[1] == []  # 1 s, and one more


def test_a_call_that_does_not_return_is_an_error_after_its_time():
    with pytest.raises(TokenizerError, match="the tokenizer cannot encode the prompt within 0 s"):
        interruptible(lambda: time.sleep(5), "the tokenizer cannot encode the prompt", 0.1)
