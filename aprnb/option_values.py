"""Converts a given value, text or object, into the checked value of an option."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from aprnb.dtype_names import SHORT_OF_STORED, TARGETS, short_dtype
from aprnb.errors import UsageProblem, closest
from aprnb.options import Option

_SEVERAL = (list, tuple, set, frozenset)
_OF_LLAMA_CPP = {dtype.in_gguf.lower(): dtype.short for dtype in TARGETS if dtype.in_gguf}
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def read_value(known: Option, value: Any, where: str | None = None) -> Any:
    """`value` as the option's kind, checked against its limits; a dtype in any case and spelling.

    Raises UsageProblem with the option, what was given and what it takes.
    """
    if known.kind in ("source", "rows"):
        return value
    reader = {
        "flag": _flag,
        "integer": _integer,
        "number": _number,
        "modules": _modules,
        "pairs": _pairs,
        "names": _names,
        "texts": _texts,
    }
    reader |= {"choice": _choice, "dtype": _choice}
    found = reader.get(known.kind, _text)(known, value, where)
    too_low = known.low is not None and isinstance(found, (int, float)) and found < known.low
    too_high = known.high is not None and isinstance(found, (int, float)) and found > known.high
    if too_low or too_high:
        raise _invalid(known, value, _range_text(known), where)
    return found


def for_target(dtype: Any, target: Any) -> Any:
    """A `--dtype` in llama.cpp's spelling as ours, where both mean the same: for a GGUF target."""
    spelled = dtype.lower() if isinstance(dtype, str) else ""
    return _OF_LLAMA_CPP.get(spelled, dtype) if str(target).lower().endswith(".gguf") else dtype


def _choice(known: Option, value: Any, where: str | None) -> str:
    written = _text(known, value, where)
    same = short_dtype if known.kind == "dtype" else str
    for choice in known.choices:
        if same(choice) == same(written):
            return choice
    # Of a dtype, a near name is another one, unless it is what files call one of the choices.
    meant = SHORT_OF_STORED.get(written.lower(), "") if known.kind == "dtype" else written
    near = closest(meant, known.choices)
    raise _invalid(known, value, f"one of {', '.join(known.shown_choices)}{near}", where)


def _range_text(known: Option) -> str:
    what = "a whole number" if known.kind == "integer" else "a number"
    if known.high is None:
        return f"{what} of at least {_number_text(known.low)}"
    return f"{what} from {_number_text(known.low)} to {_number_text(known.high)}"


def _number_text(number: float | None) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


def _invalid(known: Option, value: Any, expected: str, where: str | None) -> UsageProblem:
    return UsageProblem(f"{known.place or known.flag} {value!r}", expected=expected, where=where)


def _text(known: Option, value: Any, where: str | None) -> str:
    if isinstance(value, bool) or value == "":
        raise _invalid(known, value, "a value", where)
    return str(value)


def _flag(known: Option, value: Any, where: str | None) -> bool | str:
    if isinstance(value, bool):
        return value
    if value in known.choices:
        return str(value)
    if str(value).lower() in _TRUE + _FALSE:
        return str(value).lower() in _TRUE
    raise _invalid(known, value, " or ".join(("true", "false", *known.choices)), where)


def _integer(known: Option, value: Any, where: str | None) -> int:
    try:
        if isinstance(value, bool) or float(value) != int(float(value)):
            raise ValueError
        return int(value) if _is_exact(value) else int(float(value))
    except (TypeError, ValueError, OverflowError):
        raise _invalid(known, value, "a whole number", where) from None


def _is_exact(value: Any) -> bool:
    """Whether `int` takes the value without a float between, which rounds beyond 2^53."""
    return isinstance(value, int) or (isinstance(value, str) and value.strip().lstrip("+-").isdigit())


def _number(known: Option, value: Any, where: str | None) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):  # OverflowError: an integer beyond every float
        found = math.nan
    if isinstance(value, bool) or not math.isfinite(found):
        raise _invalid(known, value, "a number", where)
    return found


def _modules(known: Option, value: Any, where: str | None) -> str | tuple[str, ...]:
    given = value.split(",") if isinstance(value, str) else value
    names = [name.strip() for name in given if isinstance(name, str)] if isinstance(given, _SEVERAL) else []
    if not names or not all(names) or len(names) != len(given):
        raise _invalid(known, value, "all-linear, or module names separated by commas", where)
    return "all-linear" if names == ["all-linear"] else tuple(sorted(set(names)))


def _texts(known: Option, value: Any, where: str | None) -> tuple[str, ...]:
    given = value if isinstance(value, _SEVERAL) else (value,)
    texts = [text for each in given for text in (each if isinstance(each, _SEVERAL) else (each,))]
    if not all(isinstance(text, str) and text for text in texts):
        raise _invalid(known, value, "texts that are not empty", where)
    return tuple(texts)


def _names(known: Option, value: Any, where: str | None) -> dict[str, str]:
    """`a=b,c=d`, or an object of names."""
    given = (
        value.items() if isinstance(value, Mapping) else [each.partition("=")[::2] for each in str(value).split(",")]
    )
    pairs = [(str(name).strip().replace("-", "_"), str(column).strip()) for name, column in given]
    if not pairs or not all(map(all, pairs)) or len(dict(pairs)) != len(pairs):
        raise _invalid(known, value, "name=column, several separated by commas", where)
    return dict(pairs)


def _pairs(known: Option, value: Any, where: str | None) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    texts = [value] if isinstance(value, str) else value
    pairs = [str(text).partition("=") for text in texts] if isinstance(texts, _SEVERAL) else [("", "", "")]
    if not all(name and equals for name, equals, _ in pairs):
        raise _invalid(known, value, "field=value", where)
    return {name.strip(): text.strip() for name, _, text in pairs}
