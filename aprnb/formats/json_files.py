"""Reads JSON and text files of bounded size; errors name the file.

Text is UTF-8 with or without a byte order mark, or UTF-16 with one; every other encoding is an error that names it.
"""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

from aprnb.errors import CheckpointError
from aprnb.formats.json_memory import MAX_VALUES
from aprnb.formats.metadata import read_metadata
from aprnb.formats.source import read_bytes, read_head, require_no_pointer

MAX_JSON_BYTES = 64 << 20
"""The largest published tokenizer.json has some 35 MB."""
MAX_TOKENIZER_VALUES = 1 << 22
"""The same file has 260,000 tokens and 580,000 merges: 2.8 million, a key counted as four."""

MARK = "\ufeff"
"""The byte order mark as a character: text that a program copied from a file may begin with it."""
_MARKED = {codecs.BOM_UTF8: "UTF-8", codecs.BOM_UTF16_LE: "UTF-16-LE", codecs.BOM_UTF16_BE: "UTF-16-BE"}
_AS_UTF8 = "save it as UTF-8"


def read_text(path: Path, limit: int = MAX_JSON_BYTES) -> str:
    """The text of a regular file of at most `limit` bytes; each line ends with a line feed, as in Python's text mode.

    Raises FileMissing, or CheckpointError that names the encoding or the first byte that is not text.
    """
    return decoded(read_bytes(path, limit), path)


def decoded(raw: bytes, path: Path) -> str:
    """`read_text` of bytes that have been read from `path`."""
    mark, encoding = _encoding(raw[:4], path)
    try:
        return with_line_feeds(str(memoryview(raw)[len(mark) :], encoding))
    except UnicodeDecodeError as error:
        at = len(mark) + error.start
        line = str(raw[len(mark) : at], encoding).count("\n") + 1
        found = f"{path} is not {encoding.removesuffix('-LE').removesuffix('-BE')}"
        raise CheckpointError(found, where=f"line {line:,}, byte {at:,}", action=_AS_UTF8) from None


def with_line_feeds(text: str) -> str:
    """The text with each line ended by a line feed: `\\r\\n` and `\\r` end lines too."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _encoding(head: bytes, path: Path) -> tuple[bytes, str]:
    """The mark and the encoding of text that begins with `head` (four bytes); raises for an unsupported one."""
    if head in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE):
        raise CheckpointError(f"{path} is UTF-32 text", expected="UTF-8", action=_AS_UTF8)
    marked = next(((mark, name) for mark, name in _MARKED.items() if head.startswith(mark)), None)
    if marked is None and len(head) > 1 and 0 in head[:2]:
        raise CheckpointError(f"{path} is UTF-16 text without a byte order mark", expected="UTF-8", action=_AS_UTF8)
    return marked or (b"", "UTF-8")


def read_object(path: Path, limit: int = MAX_JSON_BYTES, most: int = MAX_VALUES) -> dict[str, Any]:
    """The JSON object in a file of at most `limit` bytes and about `most` values.

    Raises FileMissing, or CheckpointError that names the file and its byte: also for a key with two values.
    """
    head = read_head(path, limit, 32)
    require_no_pointer(head, path)
    mark, encoding = _encoding(head[:4], path)
    if encoding == "UTF-8":
        start = len(mark)
        parsed, repeated = read_metadata(lambda: read_bytes(path, limit)[start:], path, start, _size(path), most)
    else:
        name = f"{path} (UTF-16, bytes counted in UTF-8)"
        parsed, repeated = read_metadata(lambda: read_text(path, limit).encode(), name, 0, _size(path), most)
    twice = next((key for key, disagree in repeated if disagree), None)
    if twice is not None:
        raise CheckpointError(f"{path} gives {twice[:80]!r} two values", expected="one value")
    return parsed


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (OSError, ValueError):  # reading the file raises an error that says what is wrong
        return 0
