"""Reads options from Python, the command line or TOML into a checked recipe (no torch)."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from aprnb.errors import UsageProblem, closest
from aprnb.option_values import read_value
from aprnb.options import Option
from aprnb.tuning.planning.recipe import OPTIONS, Recipe, RunOptions

_ADAPTER_OPTIONS = ("rank", "alpha", "lora_dropout", "target_modules", "adapter_only")


def read_options(mapping: Mapping[str, Any], where: str = "options") -> tuple[Recipe, RunOptions]:
    """The recipe and the call that `mapping` describes (names with `_` or `-`; None means not given).

    Raises UsageProblem for an unknown name, a value out of range, or two options that exclude each other.
    """
    given: dict[str, Any] = {}
    for written, value in mapping.items():
        known = known_option(written, where)
        if value is not None:
            given[known.name] = read_value(known, value, where)
    _reject_contradictions(given, where)
    if given.get("quantize_nf4"):
        given["method"] = "qlora"
    recipe, options = (
        {field.name: given[field.name] for field in fields(kind) if field.name in given}
        for kind in (Recipe, RunOptions)
    )
    return Recipe(**recipe), RunOptions(**options)


def known_option(written: str, where: str) -> Option:
    """The option that `written` names; raises UsageProblem with the nearest name."""
    name = written.lstrip("-").replace("-", "_")
    name = "overrides" if name == "set" else name
    if name not in OPTIONS:
        near = closest(name, OPTIONS)
        raise UsageProblem(
            f"unknown option {written!r}{near}", where=where, action="see `aprnb finetune --help` or `%apr_finetune?`"
        )
    return OPTIONS[name]


def read_toml(text: str, where: str = "recipe", texts: Collection[str] = ()) -> dict[str, Any]:
    """The options of a TOML recipe, and texts under the names `texts`; raises UsageProblem that names the line."""
    from aprnb.formats.json_files import MARK  # help, which reads the options, needs no numpy

    try:
        found = tomllib.loads(text.removeprefix(MARK))
    except tomllib.TOMLDecodeError as problem:
        action = "write lines such as rank = 8; a cell with training rows begins with {"
        raise UsageProblem(f"the recipe is not TOML: {problem}", where=where, action=action) from None
    except (RecursionError, ValueError):  # ValueError: an integer with more digits than Python reads
        raise UsageProblem("the recipe is nested too deeply, or contains a huge number", where=where) from None
    options: dict[str, Any] = {}
    for written, value in found.items():
        line = _line_of(written, text, where)
        if written in texts and isinstance(value, str):
            options[written] = value
            continue
        if written == "sweep" and isinstance(value, dict) and _fits_toml(value):  # a table of lists
            options[written] = value
            continue
        known = known_option(written, line)
        if known.name in options:
            raise UsageProblem(f"the recipe sets {known.name} twice, also as {written!r}", where=line)
        if not _fits_toml(value):
            raise UsageProblem(f"{written} is or contains an integer of more than 64 bits", where=line)
        options[known.name] = read_value(known, value, line)
    return options


def _fits_toml(value: Any) -> bool:
    """Whether every integer in `value` has 64 bits, as TOML's have: Python cannot print one with 5,000 digits."""
    if isinstance(value, dict | list):
        return all(map(_fits_toml, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, int) or -(1 << 63) <= value < 1 << 63


def _line_of(key: str, text: str, where: str) -> str:
    pattern = re.compile(rf"^\s*\[*\s*[\"']?{re.escape(key)}[\"']?\s*[=.\]]")
    lines = [number for number, line in enumerate(text.splitlines(), 1) if pattern.match(line)]
    return f"{where}, line {lines[0]}" if lines else where


def _reject_contradictions(given: Mapping[str, Any], where: str) -> None:
    def reject(found: str, expected: str) -> None:
        raise UsageProblem(found, expected=expected, where=where)

    full = given.get("method") == "full"
    if full and given.get("quantize_nf4"):
        reject("--method full with --quantize-nf4", "one of them: 4-bit weights cannot be trained")
    useless = [OPTIONS[name].flag for name in _ADAPTER_OPTIONS if given.get(name) not in (None, False)]
    if full and useless:
        reject(f"--method full with {', '.join(useless)}", "these options only with lora or qlora")
    if given.get("val_split") and given.get("eval_data") is not None:
        reject("--eval-data with --val-split", "one of them")
    if given.get("adapter_only") and given.get("output_dtype"):
        reject("--output-dtype with --adapter-only", "one of them: --adapter-only writes no model")
    task = given.get("task", "instruct")
    if task != "instruct":
        reject(f"--task {task} is not supported", "instruct")
