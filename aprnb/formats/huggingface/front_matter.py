"""The YAML between the `---` lines of a model card (README.md): single values and lists of them, as texts.

This is the part of YAML that cards use for licence, tags, languages and the like. Nested values (`model-index`,
widgets) are left out; they stay in the card's text. A library for all of YAML would expand aliases of untrusted input.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

MAX_FRONT_MATTER_CHARACTERS = 1 << 18
_ENTRY = re.compile(r"([A-Za-z_][\w-]*):(?:[ \t]+(.*))?")
_ITEM = re.compile(r"-(?:[ \t]+(.*))?")
_PAIR = re.compile(r"[\w-]+:(\s|$)")
_NULL = ("", "~", "null", "Null", "NULL")
_FOLDED = re.compile(r"[|>][+-]?\d?[+-]?(\s+#.*)?")

Card = dict[str, str | list[str]]


def read_front_matter(text: str) -> Card:
    """Key → text, or list of texts; empty where the card does not begin with `---`."""
    lines = text[:MAX_FRONT_MATTER_CHARACTERS].removeprefix("\ufeff").splitlines()
    if not lines or lines[0].rstrip() != "---":
        return {}
    ends = [number for number, line in enumerate(lines) if number and line.rstrip() in ("---", "...")]
    found: Card = {}
    key, below = "", list[str]()
    for line in [*lines[1 : ends[0]], "end:"] if ends else []:
        entry = _ENTRY.fullmatch(line.rstrip())
        if entry is None:
            below.append(line)
            continue
        value = _value(below) if key else None
        if value is not None:
            found[key] = value
        key, below = entry[1], [entry[2] or ""]
    return found


def write_front_matter(card: Mapping[str, str | list[str]]) -> str:
    """The lines of a card with these values, each text quoted."""
    lines = ["---"]
    for key, value in card.items():
        if isinstance(value, str):
            lines.append(f"{key}: {_quoted(value)}")
        else:
            lines += [f"{key}:", *(f"- {_quoted(item)}" for item in value)]
    return "\n".join([*lines, "---", ""])


def _value(lines: list[str]) -> str | list[str] | None:
    """The value of a key, whose first line is what follows the colon; None for null and for nested values."""
    first, rest = _without_comment(lines[0].strip()), [line.strip() for line in lines[1:]]
    if _FOLDED.fullmatch(first):
        return "\n".join(rest).strip() if first.startswith("|") else " ".join(" ".join(rest).split())
    rest = [line for line in map(_without_comment, rest) if line]
    if first.startswith("["):
        return _flow(" ".join([first, *rest]))
    if not first and rest and all(_ITEM.fullmatch(line) for line in rest):
        items = [_ITEM.sub(r"\1", line) for line in rest]
        return None if any(map(_is_nested, items)) else _texts(items)
    if first.startswith(("{", "&", "*", "!")) or (not first and any(map(_is_nested, rest))):
        return None
    texts = _texts([" ".join([first, *rest]).strip()])
    return texts[0] if texts else None


def _is_nested(text: str) -> bool:
    return text.startswith(("{", "[", "&", "*", "!", "- ")) or _PAIR.match(text) is not None


def _texts(items: Iterable[str]) -> list[str]:
    return [_scalar(item) for item in items if item not in _NULL]


def _flow(text: str) -> list[str] | None:
    """The items of `[a, "b, c"]`."""
    if not text.endswith("]") or any(sign in text[1:-1] for sign in "[]{}"):
        return None
    items = re.findall(r"""\s*("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^,'"][^,]*)\s*(?:,|$)""", text[1:-1])
    return _texts(item.strip() for item in items)


def _scalar(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    if len(text) > 1 and text[0] == text[-1] == '"':
        try:
            found = json.loads(re.sub(r"\\x([0-9A-Fa-f]{2})", r"\\u00\1", text))
        except ValueError:
            return text[1:-1]
        return found if isinstance(found, str) else text
    return text


def _without_comment(line: str) -> str:
    if line.startswith(("'", '"')):
        quoted = re.match(r"""("(?:[^"\\]|\\.)*"|'(?:[^']|'')*')\s*(#.*)?$""", line)
        return quoted[1] if quoted else line
    return re.sub(r"(^|(?<=\s))#.*$", "", line).rstrip()


def _quoted(text: str) -> str:
    """A double-quoted YAML text; JSON's escapes are YAML's, and other unprintable characters are escaped too."""
    shown = json.dumps(text, ensure_ascii=False)
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda sign: f"\\u{ord(sign[0]):04x}", shown)
