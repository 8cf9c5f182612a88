"""Untrusted tokenizers in a child process: tried before they are used here, and to encode the rows of a training."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from aprnb.errors import TokenizerError
from aprnb.tokenizer.sandbox.bounded_child import AnswerTooLarge, BoundedChild, ChildFailed, DeadlinePassed

if TYPE_CHECKING:
    from aprnb.tokenizer.checkpoint_tokenizer import CheckpointTokenizer

START_S, START_S_PER_BYTE = 15.0, 2e-6
TEXT_S, TEXT_S_PER_BYTE = 10.0, 2e-5
"""Clocks. The library reads a published vocabulary of 30 MB in 1 s and encodes 1 MB of text a second."""
MAX_BATCH_BYTES = 1 << 20
T = TypeVar("T")
_SLICE_S = 0.05
_SMALL_BATCH_BYTES = 256 << 10
_TOKENS_PER_BYTE, _ANSWER_SLACK = 4, 1 << 20
_CHILD = Path(__file__).with_name("tokenizer_child.py")

ORDINARY_TEXTS = (
    "Hello world 12345 don't I'LL it's we've", "Привет, мир! 2024", "你好，世界。", " two  spaces\n\n\ttab ",
    "x=1;y+=2 //z_z",
    "über façade 🎉👩‍👧", "١٢٣ नमस्ते 안녕 สวัสดี", "HTTPServer camelCase", "e\u0301", "3 \x00 \x1b  ",
)  # fmt: skip
"""Texts of several scripts, which tokenizers with different rules split differently."""
PROBES = (
    *ORDINARY_TEXTS, "a ☃", "", *(sign * 400 for sign in "aA1 .\n\t中"), "ab" * 200, "a b" * 200, "a1" * 200,
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaab",
)  # fmt: skip
"""Ordinary texts, an unknown sign, and repetitions, on which bad regular expressions take exponential time."""


def texts_around(tokens: Sequence[str]) -> tuple[str, ...]:
    """Texts that contain some of these added tokens: beside words, spaces, line ends, and each other."""
    chosen = dict.fromkeys((*tokens[:4], *tokens[-2:]))
    return tuple(text for token in chosen for text in (f"a{token}b", f" a {token} b", f"{token}\n{token}  c "))


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text: `ids` [T], and `offsets` [T, 2] in characters of the text."""

    ids: NDArray[np.int32]
    offsets: NDArray[np.int32]


class Encode(Protocol):
    """Texts as tokens; `special` adds what the post-processor adds."""

    def __call__(self, texts: Sequence[str], special: bool = False) -> list[Encoded]: ...


class TokenizerProcess:
    """A child process that encodes with the tokenizer.json in `text`; `where` names it in errors.

    Raises TokenizerError where the library does not take it, or it exceeds its time or memory. A context manager.
    """

    def __init__(self, text: str, where: object) -> None:
        self._where = where
        self._child = BoundedChild(_CHILD)
        try:
            self._ask({"tokenizer": text}, load_seconds(text), _ANSWER_SLACK)
        except BaseException:
            self.close()
            raise

    def encode(self, texts: Sequence[str], special: bool = False) -> list[Encoded]:
        """The tokens of each text; `special` adds what the post-processor adds, and decodes them too."""
        found: list[Encoded] = []
        for batch in _batches(texts):
            size = sum(len(text.encode("utf-8", "surrogatepass")) for text in batch)
            most_tokens = _TOKENS_PER_BYTE * size + 256 * len(batch)
            answer = self._ask(
                {"texts": batch, "special": special}, TEXT_S + TEXT_S_PER_BYTE * size, 12 * most_tokens + _ANSWER_SLACK
            )
            found += _decoded(answer, len(batch))
        return found

    def close(self) -> None:
        self._child.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, question: dict[str, Any], seconds: float, most_bytes: int) -> bytes:
        payload = json.dumps({**question, "seconds": seconds}).encode()
        try:
            answer = self._child.ask(len(payload).to_bytes(8, "little") + payload, most_bytes, seconds)
        except DeadlinePassed:
            raise TokenizerError(f"{self._where} ran longer than {seconds:.0f} s", action=_OTHER) from None
        except AnswerTooLarge:
            raise TokenizerError(f"{self._where} makes too many tokens of a text", action=_OTHER) from None
        except ChildFailed:  # its last line is always a note about backtraces
            found = f"{self._where} takes too much memory, or crashes the tokenizers library"
            raise TokenizerError(found, action=_OTHER) from None
        if answer[:1] != b"0":
            raise TokenizerError(
                f"{self._where} is not a valid tokenizer: {answer[1:].decode('utf-8', 'replace')}", action=_OTHER
            )
        return answer[1:]


_OTHER = "use the tokenizer.json that was published with the model"


def load_seconds(text: str) -> float:
    """The clock for making a tokenizer of this tokenizer.json."""
    return START_S + START_S_PER_BYTE * len(text)


def try_out(text: str, where: object, added: Sequence[str] = ()) -> None:
    """The first use of an untrusted tokenizer: encodes and decodes `PROBES` in a child; raises TokenizerError.

    `added` are its added tokens, of which the child meets some too.
    """
    with TokenizerProcess(text, where) as process:
        process.encode(PROBES)
        process.encode((*PROBES, *texts_around(added)), special=True)


def _batches(texts: Sequence[str], most: int = MAX_BATCH_BYTES) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= most:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _decoded(answer: bytes, texts: int) -> Iterator[Encoded]:
    """The child's arrays, checked: the tokenizer may have taken over the child."""
    numbers = np.frombuffer(answer[: len(answer) // 4 * 4], "<i4")
    counts, rest = numbers[:texts], numbers[texts:]
    total = int(counts.clip(0).sum(dtype=np.int64))
    if len(answer) % 4 or len(counts) != texts or (counts < 0).any() or len(rest) != 3 * total or (rest < 0).any():
        raise TokenizerError("the tokenizer's process gave a malformed answer")
    ids, offsets = rest[:total], rest[total:].reshape(2, total).T
    ends = np.cumsum(counts)
    for begin, end in zip(ends - counts, ends, strict=True):
        yield Encoded(ids[begin:end], offsets[begin:end])


@contextmanager
def row_encoder(tokenizer: CheckpointTokenizer) -> Iterator[Encode]:
    """A function that encodes texts: in a child process where the tokenizer is untrusted.

    Ctrl-C ends it between two small batches, or at once.
    """
    if not tokenizer.untrusted:
        yield lambda texts, special=False: [
            one for batch in _batches(texts, _SMALL_BATCH_BYTES) for one in _encoded(tokenizer, batch, special)
        ]
        return
    with TokenizerProcess(tokenizer.backend_tokenizer.to_str(), "the tokenizer.json") as process:
        yield process.encode


def _encoded(tokenizer: CheckpointTokenizer, batch: list[str], special: bool) -> Iterator[Encoded]:
    with library_errors("the tokenizer cannot encode the rows"):
        encodings = tokenizer.backend_tokenizer.encode_batch(batch, add_special_tokens=special)
    for encoding in encodings:
        offsets = np.array(encoding.offsets, np.int32).reshape(-1, 2)
        yield Encoded(np.array(encoding.ids, np.int32), offsets)


@contextmanager
def library_errors(found: str) -> Iterator[None]:
    """Turns what the tokenizers library raises, panics included, into TokenizerError that begins with `found`."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, TokenizerError):
        raise
    except BaseException as error:  # a panic of the library is no Exception
        raise TokenizerError(f"{found}: {str(error)[:300]}") from None


def interruptible(work: Callable[[], T], found: str, seconds: float) -> T:
    """The result of `work`, a call into the tokenizers library, during which Ctrl-C has no effect: runs in a thread.

    Raises TokenizerError that begins with `found` for what the library raises, or after `seconds`; the thread of a call
    that does not return is left behind.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    deadline = time.monotonic() + seconds
    while not outcome.done():
        if time.monotonic() > deadline:
            raise TokenizerError(f"{found} within {seconds:.0f} s", action=_OTHER)
        wait([outcome], _SLICE_S)
    with library_errors(found):
        return outcome.result()
