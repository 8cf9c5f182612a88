"""`rank_pattern` and `alpha_pattern`: regular expressions over module names, from a file that is not trusted.

PEFT takes the first pattern that matches the end of a module's name, from a dot on (`get_pattern_key`). A malicious
expression can take hours to match: groups may not be repeated, and few parts of a pattern may be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprnb.errors import UsageProblem
from aprnb.printable import short

MAX_PATTERNS, MAX_PATTERN_LENGTH, MAX_REPEATS = 4_096, 256, 3
_ATOM = r"(?:\\[.dw_-]|[\w.-]|\[[\w\\.-]{1,40}\])"
_SAFE = re.compile(rf"\^?(?:{_ATOM}[*+?]?|\((?:\?:)?|\)(?![*+?{{])|\|)*\$?", re.ASCII)
_REPEAT = re.compile(r"[*+?]")


@dataclass(frozen=True)
class Pattern:
    """One entry of a pattern table."""

    expression: re.Pattern[str]
    value: int | float

    def matches(self, module: str) -> bool:
        return self.expression.match(module) is not None


def read_patterns(
    entries: Mapping[str, Any], key: str, is_valid: Callable[[Any], bool], path: Path
) -> tuple[Pattern, ...]:
    """The entries of the table `key` in their order; raises UsageProblem for an expression or a value that is not."""
    if len(entries) > MAX_PATTERNS:
        raise UsageProblem(f"{path} has {len(entries):,} entries in {key}", expected=f"at most {MAX_PATTERNS:,}")
    return tuple(Pattern(_compiled(text, key, path), _value(entries, text, key, is_valid, path)) for text in entries)


def _value(entries: Mapping[str, Any], text: str, key: str, is_valid: Callable[[Any], bool], path: Path) -> Any:
    value = entries[text]
    if not is_valid(value):
        raise UsageProblem(f"{path} has {key} {short(value)} for {short(text)}", expected="a usable number")
    return value


def simple_expression(text: str) -> re.Pattern[str] | None:
    """The regular expression, if it is one that matches fast; else None."""
    simple = len(text) <= MAX_PATTERN_LENGTH and _SAFE.fullmatch(text) is not None
    if not simple or len(_REPEAT.findall(text.replace("(?:", "("))) > MAX_REPEATS:
        return None
    try:
        return re.compile(text)
    except re.error:  # such as a group without its end
        return None


def _compiled(text: str, key: str, path: Path) -> re.Pattern[str]:
    if simple_expression(text) is not None:
        return re.compile(rf"(.*\.)?({text})$")
    raise UsageProblem(
        f"{path} has the pattern {short(text)} in {key}",
        expected=f"a module's name, or a simple regular expression with at most {MAX_REPEATS} repetitions",
        action=f"write the modules' full names into {key}",
    )
