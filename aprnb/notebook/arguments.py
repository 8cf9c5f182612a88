"""From the text after a magic to its arguments: continuation, splitting, expansion (no IPython import).

IPython's own splitter leaves quotes in tokens and expands variables before it splits, which breaks a path with a space.
Here the line is split first, with quotes anywhere and backslashes kept, and each token is expanded by itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aprnb.errors import UsageProblem, closest

_PIECE = re.compile(
    r"""'(?P<single>[^']*)' | "(?P<double>[^"]*)" | (?P<open>['"])
    | (?P<braces>\{[^{}]*\}) | (?P<blank>\s+) | (?P<bare>[^\s'"{]+|\{)""",
    re.VERBOSE,
)
_PLACE = re.compile(r"\$(?P<name>[^\W\d]\w*)|\{(?P<expression>[^{}]+)\}")
_OPTION = re.compile(r"--[\w-]+=")


@dataclass(frozen=True, slots=True)
class Token:
    """One argument as typed: pieces of text, each with whether `$name` and `{expression}` in it are expanded."""

    pieces: tuple[tuple[str, bool], ...]

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.pieces)


def join_continued(line: str, body: str) -> tuple[str, str]:
    """Joins lines of the body to `line` while it ends with a backslash; returns the line and the rest of the body."""
    lines = body.split("\n")
    while line.rstrip().endswith("\\"):
        line = f"{line.rstrip()[:-1]} {lines.pop(0) if lines else ''}"
    return line, "\n".join(lines)


def split(line: str) -> list[Token]:
    """The tokens of `line`: quotes may be anywhere, backslashes and `#` are ordinary characters.

    Text in single quotes is never expanded; an unquoted `{expression}` may contain spaces and quotes.
    Raises UsageProblem for a quote that is not closed.
    """
    tokens: list[Token] = []
    pieces: list[tuple[str, bool]] = []
    for match in _PIECE.finditer(line):
        kind = match.lastgroup
        if kind == "open":
            raise UsageProblem(f"quote {match.group()} in column {match.start() + 1} is not closed", where=line.strip())
        if kind == "blank":
            _close(tokens, pieces)
        else:
            pieces.append((match.group(kind or 0), kind != "single"))
    _close(tokens, pieces)
    return tokens


def expand(tokens: list[Token], names: Mapping[str, Any]) -> list[object]:
    """The tokens with `$name` and `{expression}` replaced by their values in `names`.

    A token (or the value of `--option=`) that is one placeholder is replaced by the Python object, so that `--data $df`
    takes a DataFrame. Raises UsageProblem for a name that does not exist and an expression that fails.
    """
    return [value for token in tokens for value in _expanded(token, names)]


def _close(tokens: list[Token], pieces: list[tuple[str, bool]]) -> None:
    if pieces:
        tokens.append(Token(tuple(pieces)))
        pieces.clear()


def _expanded(token: Token, names: Mapping[str, Any]) -> list[object]:
    if all(expands for _, expands in token.pieces):
        option = _OPTION.match(token.text)
        rest = token.text[option.end() :] if option else token.text
        whole = _PLACE.fullmatch(rest)
        if whole:
            value = _value(whole, names)
            return [option.group()[:-1], value] if option else [value]
    return ["".join(_text(text, names) if expands else text for text, expands in token.pieces)]


def _text(text: str, names: Mapping[str, Any]) -> str:
    return _PLACE.sub(lambda place: str(_value(place, names)), text)


def _value(place: re.Match[str], names: Mapping[str, Any]) -> Any:
    name, expression = place.group("name"), place.group("expression")
    if name is not None:
        if name not in names:
            raise UsageProblem(f"there is no variable {name}{closest(name, names)}", where=place.group())
        return names[name]
    try:
        return eval(expression, {}, dict(names))
    except Exception as problem:
        raise UsageProblem(
            f"{{{expression}}} cannot be evaluated: {type(problem).__name__}: {problem}",
            action="put the text in single quotes if the braces are literal",
        ) from None
