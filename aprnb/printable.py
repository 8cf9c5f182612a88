"""Text from files made safe to print: control characters visible, length bounded. The only module that does this."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

# Cc: control, Cf: direction marks and zero-width signs, Cs: lone surrogates, Zl/Zp: line and paragraph separators.
_INVISIBLE = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0") | frozenset(map(chr, range(0xFE00, 0xFE10)))
"""Letters and marks that no font draws: fillers, variation selectors."""
_JOINERS = "\u200c\u200d\ufe0e\ufe0f"
"""Invisible characters that languages and emoji need and that do not control a terminal."""

MAX_LINE = 4_096
MAX_NAME, MAX_MESSAGE = 300, 8_000
_LONG_NAME = re.compile(rf"\S{{{MAX_NAME + 1},}}")
_BEYOND_ASCII = re.compile(r"[^\x20-\x7e]")


def visible(text: str, longest: int = MAX_LINE) -> str:
    """`text` on one line, its control characters, direction marks and lone surrogates as `⟨U+202E⟩`.

    Text longer than `longest` characters is cut, and the number of missing characters follows.
    """
    return _marked(_cut(text, longest), "")


def visible_lines(text: str) -> list[str]:
    """The lines of `text`, each made visible."""
    return [visible(line) for line in text.split("\n")]


def message(text: str) -> str:
    """`text` for an error: line breaks and tabs stay, a name is cut at 300 characters, the whole at 8,000."""
    text = _LONG_NAME.sub(lambda name: _cut(name.group(), MAX_NAME), text)
    return _marked(_cut(text, MAX_MESSAGE), "\n\t")


def running_text(text: str) -> str:
    """Text of any length for a terminal, such as generated text: line breaks, tabs and joiners stay."""
    return _marked(text, "\n\t" + _JOINERS)


def json_text(document: Any) -> str:
    """The document as one line of JSON; invisible characters and lone surrogates are `\\u` escapes, nothing is lost."""
    return _BEYOND_ASCII.sub(lambda sign: _escaped(sign.group()), json.dumps(document, ensure_ascii=False))


def short(value: Any) -> str:
    """The beginning of a value as Python writes it, at most 60 characters."""
    text = repr(value[:60] if isinstance(value, str) else value)
    return text if len(text) <= 60 else text[:57] + "…"


def shown_name(name: str) -> str:
    """A tensor's name for a message of one line: at most 80 characters, control characters escaped."""
    text = name if name.isprintable() else ascii(name)[1:-1]
    return text if len(text) <= 80 else f"{text[:79]}…"


def and_more(hidden: int) -> str:
    """`and 1,234 more`, for a list of which `hidden` items are not shown; empty for none."""
    return f"and {hidden:,} more" if hidden > 0 else ""


def first_names(names: Sequence[str], most: int) -> str:
    """`a, b, c and 5 more`: the first `most` names and the number of the rest."""
    return " ".join(filter(None, (", ".join(names[:most]), and_more(len(names) - most))))


def is_visible(text: str) -> bool:
    """Whether `text` has no control, format or surrogate character."""
    return (text.isascii() and text.isprintable()) or not any(map(_is_invisible, text))


def _is_invisible(sign: str) -> bool:
    return unicodedata.category(sign) in _INVISIBLE or sign in _BLANK or "\U000e0100" <= sign <= "\U000e01ef"


def _marked(text: str, kept: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(f"⟨U+{ord(sign):04X}⟩" if _is_invisible(sign) and sign not in kept else sign for sign in text)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text) - longest:,} more characters)"


def _escaped(sign: str) -> str:
    return json.dumps(sign)[1:-1] if _is_invisible(sign) else sign
