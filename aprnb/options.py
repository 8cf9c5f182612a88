"""The kinds of option a recipe has, and how text becomes a checked value (no torch)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from aprnb.errors import UsageProblem, closest

Kind = Literal["text", "choice", "integer", "number", "flag", "modules", "pairs", "source"]
_SEVERAL = (list, tuple, set, frozenset)
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclasses.dataclass(frozen=True)
class Option:
    """One option: what it is called, what it may hold, and the line of help that goes with it."""

    name: str
    kind: Kind
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None

    @property
    def flag(self) -> str:
        return "--" + ("set" if self.name == "overrides" else self.name.replace("_", "-"))


def option(default: Any, kind: Kind, text: str, **limits: Any) -> Any:
    """A dataclass field that carries its `Option`."""
    return dataclasses.field(default=default, metadata={"kind": kind, "help": text, **limits})


def options_of(recipe: type) -> dict[str, Option]:
    """Field name → option, from a dataclass whose fields come from `option`."""
    return {
        field.name: Option(name=field.name, default=field.default, **field.metadata)
        for field in dataclasses.fields(recipe)
    }


def read_value(known: Option, value: Any, where: str) -> Any:
    """`value` as the option's kind, checked against its limits.

    Raises UsageProblem with the option, what was given and what it takes.
    """
    if known.kind == "source":
        return value
    reader = {"flag": _flag, "integer": _integer, "number": _number, "modules": _modules, "pairs": _pairs}
    found = reader[known.kind](known, value, where) if known.kind in reader else _text(known, value, where)
    if known.kind == "choice" and found not in known.choices:
        raise _refused(known, value, "one of " + ", ".join(known.choices) + closest(str(found), known.choices), where)
    too_low = known.low is not None and isinstance(found, (int, float)) and found < known.low
    too_high = known.high is not None and isinstance(found, (int, float)) and found > known.high
    if too_low or too_high:
        raise _refused(known, value, _range_text(known), where)
    return found


def _range_text(known: Option) -> str:
    what = "a whole number" if known.kind == "integer" else "a number"
    if known.high is None:
        return f"{what} of at least {_number_text(known.low)}"
    return f"{what} from {_number_text(known.low)} to {_number_text(known.high)}"


def _number_text(number: float | None) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


def _refused(known: Option, value: Any, expected: str, where: str) -> UsageProblem:
    return UsageProblem(f"{known.flag} {value!r}", expected=expected, where=where)


def _text(known: Option, value: Any, where: str) -> str:
    if isinstance(value, bool) or value == "":
        raise _refused(known, value, "a value", where)
    return str(value)


def _flag(known: Option, value: Any, where: str) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() in _TRUE + _FALSE:
        return str(value).lower() in _TRUE
    raise _refused(known, value, "true or false", where)


def _integer(known: Option, value: Any, where: str) -> int:
    try:
        if isinstance(value, bool) or float(value) != int(float(value)):
            raise ValueError
        return int(value) if _is_exact(value) else int(float(value))
    except (TypeError, ValueError, OverflowError):
        raise _refused(known, value, "a whole number", where) from None


def _is_exact(value: Any) -> bool:
    """Whether `int` takes the value without a float between, which rounds beyond 2^53."""
    return isinstance(value, int) or (isinstance(value, str) and value.strip().lstrip("+-").isdigit())


def _number(known: Option, value: Any, where: str) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):  # OverflowError: an integer beyond every float
        found = math.nan
    if isinstance(value, bool) or not math.isfinite(found):
        raise _refused(known, value, "a number", where)
    return found


def _modules(known: Option, value: Any, where: str) -> str | tuple[str, ...]:
    given = value.split(",") if isinstance(value, str) else value
    names = [name.strip() for name in given if isinstance(name, str)] if isinstance(given, _SEVERAL) else []
    if not names or not all(names) or len(names) != len(given):
        raise _refused(known, value, "all-linear, or module names with commas between them", where)
    return "all-linear" if names == ["all-linear"] else tuple(sorted(set(names)))


def _pairs(known: Option, value: Any, where: str) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    texts = [value] if isinstance(value, str) else value
    pairs = [str(text).partition("=") for text in texts] if isinstance(texts, _SEVERAL) else [("", "", "")]
    if not all(name and equals for name, equals, _ in pairs):
        raise _refused(known, value, "field=value", where)
    return {name.strip(): text.strip() for name, _, text in pairs}
