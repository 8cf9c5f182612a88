"""Text that grows token by token: whole characters, and nothing of a stop text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from aprnb.model.answer_text import AnswerText
from aprnb.model.prompt import Prompt

END, STOP_TOKEN = 999, 998
TEXTS = (
    "Hello, world!", " leading and trailing ", "def f(x):\n    return x + 1\n", "Ünïcödé façade", "你好，世界。",
    "🎉👩‍👧🏽 ok", "नमस्ते दुनिया", "\n\n\n", "a\tb\r\nc", "مرحبا بالعالم", "안녕하세요", "x" * 50, "don't  you   see",
)  # fmt: skip


def bytes_decoder(ids: Sequence[int]) -> str:
    """Each id below 256 is a byte."""
    return bytes(ids).decode("utf-8", "replace")


def pushed(data: bytes, *stops: str, ends: bool = False) -> tuple[AnswerText, list[str]]:
    parts: list[str] = []
    prompt = Prompt("", (0,), frozenset([END]), {STOP_TOKEN: "<stop>"}, stops)
    answer = AnswerText(prompt, bytes_decoder, parts.append)
    for number in [*data, *([END] if ends else [])]:
        if answer.push(number):
            break
    answer.finish()
    assert "".join(parts) == answer.text
    return answer, parts


def test_a_character_of_several_tokens_is_passed_on_whole() -> None:
    _, parts = pushed("aé🎉b".encode())
    assert parts == ["a", "é", "🎉", "b"]


def test_bytes_that_never_become_a_character_are_passed_on_at_the_end() -> None:
    answer, parts = pushed(b"a\xf0\x9f")
    assert parts == ["a", "\ufffd"]
    assert answer.reason == "length"


@pytest.mark.parametrize("stop", ["END", "D", "EN", "x END y", "🎉", "\n\n"])
def test_a_stop_text_of_several_tokens_is_cut_off_and_never_passed_on(stop: str) -> None:
    answer, parts = pushed(f"before {stop} after".encode(), stop)
    assert answer.text == "before "
    assert (answer.reason, answer.stop_text, answer.stop_id) == ("stop", stop, None)
    assert len(answer.ids) == len(f"before {stop}".encode())
    assert parts[0] == "b"


def test_the_beginning_of_a_stop_text_is_passed_on_when_the_text_continues_otherwise() -> None:
    answer, parts = pushed(b"a EN b ENE c E", "END", "ENEMY")
    assert answer.text == "a EN b ENE c E"
    assert "EN " in parts
    assert answer.reason == "length"


def test_the_first_of_several_stop_texts_counts() -> None:
    answer, _ = pushed(b"one two three", "three", "two", "e t")
    assert (answer.text, answer.stop_text) == ("on", "e t")


def test_overlapping_stop_texts_do_not_leave_a_part_of_one() -> None:
    answer, _ = pushed(b"ababac", "abac")
    assert (answer.text, answer.reason) == ("ab", "stop")


def test_a_stop_text_inside_one_token_cuts_the_token() -> None:
    answer = AnswerText(
        Prompt("", (0,), frozenset(), {}, ("lo",)), lambda ids: "hello world" * len(ids), lambda _: None
    )
    assert answer.push(1)
    assert (answer.text, answer.stop_text) == ("hel", "lo")


def test_the_first_of_several_stop_texts_inside_one_token_counts() -> None:
    prompt = Prompt("", (0,), frozenset(), {}, ("world", "lo"))
    answer = AnswerText(prompt, lambda ids: "hello world" * len(ids), lambda _: None)
    assert answer.push(1)
    assert (answer.text, answer.stop_text) == ("hel", "lo")


def test_an_end_token_ends_the_answer_and_is_not_part_of_the_text() -> None:
    answer, _ = pushed(b"ab", ends=True)
    assert (answer.text, answer.ids[-1], answer.reason, answer.stop_id) == ("ab", END, "eos", END)


def test_what_looks_like_a_stop_text_is_kept_in_front_of_an_end_token() -> None:
    answer, _ = pushed(b"x EN", "END", ends=True)
    assert (answer.text, answer.reason) == ("x EN", "eos")


def test_a_special_token_as_a_stop_text_stops_with_its_text() -> None:
    answer = AnswerText(Prompt("", (0,), frozenset(), {STOP_TOKEN: "<stop>"}, ()), bytes_decoder, lambda _: None)
    assert not answer.push(97)
    assert answer.push(STOP_TOKEN)
    assert (answer.text, answer.reason, answer.stop_text, answer.stop_id) == ("a", "stop", "<stop>", STOP_TOKEN)


def test_every_split_of_a_text_gives_the_same_text() -> None:
    data = "é\n🎉END".encode()
    for size in range(1, len(data)):
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        answer = AnswerText(
            Prompt("", (0,), frozenset(), {}, ("END",)),
            lambda ids, pieces=pieces: b"".join(pieces[number] for number in ids).decode("utf-8", "replace"),
            lambda _: None,
        )
        assert any(map(answer.push, range(len(pieces))))
        assert (answer.text, answer.reason) == ("é\n🎉", "stop")


@pytest.mark.real
@pytest.mark.parametrize("name", ["qwen3", "gemma3", "llama2", "llama3_1"])
def test_the_parts_of_a_text_are_what_the_published_tokenizer_decodes(real_models: Path, name: str) -> None:
    backend = Tokenizer.from_file(str(real_models / "tokenizers" / name / "tokenizer.json"))
    for text in (*TEXTS, " ".join(TEXTS)):
        ids = backend.encode(text, add_special_tokens=False).ids
        answer = AnswerText(Prompt("", (0,), frozenset(), {}, ()), backend.decode, lambda _: None)
        for number in ids:
            answer.push(number)
        answer.finish()
        assert answer.text == backend.decode(ids)
