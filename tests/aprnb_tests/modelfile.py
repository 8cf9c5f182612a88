"""Reads a Modelfile by the rules of Ollama's documentation and parser (docs/modelfile.md, parser/parser.go)."""

from __future__ import annotations

import re
from pathlib import Path

_LINE = re.compile(r'([A-Za-z]+)[ \t]+(?:([a-z_]+)[ \t]+)?("""(?:.|\n)*?"""|"[^"\n]*"|[^\n]*)\n')
_KNOWN = ("FROM", "ADAPTER", "TEMPLATE", "SYSTEM", "PARAMETER")
PARAMETERS = {"stop", "temperature", "top_p", "top_k", "min_p", "repeat_penalty", "num_ctx"}


def read_modelfile(path: Path) -> dict[str, list[str]]:
    """Instruction (`PARAMETER stop` with its name) → its values; raises AssertionError for anything else."""
    text, at, found = path.read_text("utf-8"), 0, {}
    while at < len(text):
        match = _LINE.match(text, at)
        assert match, text[at : at + 80]
        name, parameter, value = match.groups()
        assert name in _KNOWN, name
        if name == "PARAMETER":
            assert parameter in PARAMETERS, parameter
            name = f"PARAMETER {parameter}"
        elif parameter:
            value = f"{parameter} {value}"
        quotes = next((q for q in ('"""', '"') if value.startswith(q)), "")
        found.setdefault(name, []).append(value.removeprefix(quotes).removesuffix(quotes) if quotes else value)
        at = match.end()
    return found
