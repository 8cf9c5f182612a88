"""Runs an untrusted tokenizer.json in a process of its own, which its parent may kill; started as a script.

The tokenizers library is native code: a malicious program makes it fill the memory, panic, or run a regular expression
for hours, and while it runs Python handles no signal. None of that affects the parent's clock and memory.

A question is its length (8 bytes, little-endian) and a JSON object. The first one is {tokenizer, seconds}; those that
follow are {texts, seconds, special}. An answer begins with `0`, or with `1` and the problem as text. For texts the
number of tokens of each follows, then all tokens' ids, begins and ends (in characters), as little-endian int32.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from array import array
from pathlib import Path
from typing import Any

LOAD_BYTES, LOAD_PER_CHARACTER = 128 << 20, 64
"""Address space for making the tokenizer; published ones take 20 to 50 bytes for each character of their JSON.

What is taken here, the parent takes too when it makes the same tokenizer.
"""
RUN_BYTES = 1536 << 20
"""More for texts, and for the library's threads and what each of them reserves."""
PROBLEM_CHARACTERS = 300


def main() -> None:
    """Answers until its input ends."""
    question = _read()
    load_bytes = taken_bytes() + LOAD_BYTES + LOAD_PER_CHARACTER * len(question["tokenizer"])
    limit_memory(load_bytes, load_bytes + RUN_BYTES)
    tokenizer, problem = None, None
    limit_time(question["seconds"])
    try:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(question["tokenizer"])
    except BaseException as error:  # a panic of the library is no Exception
        problem = _told(error)
    del question
    limit_memory(load_bytes + RUN_BYTES, load_bytes + RUN_BYTES)
    _write(b"0" if problem is None else b"1" + problem)
    while tokenizer is not None:
        question = _read()
        limit_time(question["seconds"])
        try:
            _write(b"0" + encoded(tokenizer, question["texts"], question["special"]))
        except BaseException as error:
            _write(b"1" + _told(error))


def encoded(tokenizer: Any, texts: list[str], special: bool) -> bytes:
    """The answer to `texts`; each is decoded once too, since a decoder is a program of its own."""
    encodings = tokenizer.encode_batch(texts, add_special_tokens=special)
    counts, ids, begins, ends = (array("i") for _ in range(4))
    for encoding in encodings:
        counts.append(len(encoding.ids))
        ids.extend(encoding.ids)
        for begin, end in encoding.offsets:
            begins.append(begin)
            ends.append(end)
    if special:
        tokenizer.decode_batch([encoding.ids for encoding in encodings], skip_special_tokens=False)
    if sys.byteorder == "big":
        for numbers in (counts, ids, begins, ends):
            numbers.byteswap()
    return b"".join(numbers.tobytes() for numbers in (counts, ids, begins, ends))


def taken_bytes() -> int:
    """This process's address space, which includes mapped files such as the system's locales."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux
        return RUN_BYTES


def limit_memory(now_bytes: int, most_bytes: int) -> None:
    """Allocations beyond `now_bytes` fail, which ends this process; it may be raised to `most_bytes`."""
    try:
        import resource
    except ImportError:  # not a POSIX system: the parent's clock remains
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    most_bytes = most_bytes if hard == resource.RLIM_INFINITY else min(most_bytes, hard)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (min(now_bytes, most_bytes), most_bytes))
    except (OSError, ValueError):
        if sys.platform == "linux":  # macOS does not accept every limit: the parent's clock remains
            raise


def limit_time(seconds: float) -> None:
    """Ends this process also where its parent was killed; needs no interpreter lock."""
    faulthandler.dump_traceback_later(seconds + 1, exit=True)


def _read() -> dict[str, Any]:
    source = sys.stdin.buffer
    size = int.from_bytes(source.read(8), "little")
    if not size:
        sys.exit()
    question: dict[str, Any] = json.loads(source.read(size))
    return question


def _write(answer: bytes) -> None:
    faulthandler.cancel_dump_traceback_later()
    target = sys.stdout.buffer
    target.write(len(answer).to_bytes(8, "little") + answer)
    target.flush()


def _told(error: BaseException) -> bytes:
    return str(error)[:PROBLEM_CHARACTERS].encode("utf-8", "replace")


if __name__ == "__main__":
    main()
