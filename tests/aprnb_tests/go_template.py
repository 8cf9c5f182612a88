"""The part of Go's text/template that Ollama's templates use here, from the package's documentation (pkg.go.dev).

Actions are `{{ … }}`; `{{-` trims the white space before it and `-}}` that after it. Known are string constants, fields
of the dot and of the top (`.Name`, `$.Name`), variables, `range`, `if` with `not`, `eq`, `and`, and `end`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any

_ACTION = re.compile(r'\{\{(-\s)?\s*((?:"(?:\\.|[^"\\\n])*"|[^"{}])*?)\s*(\s-)?\}\}')
_WORD = re.compile(r'"(?:\\.|[^"\\])*"|:=|=|[$.\w]+')


def execute(template: str, data: Mapping[str, Any]) -> str:
    """The template's output; raises AssertionError for what is not known here."""
    return "".join(_run(_parse(iter(list(_tokens(template)))), data, {}, data))


def _tokens(template: str) -> Iterator[tuple[str, str]]:
    at, trim = 0, False
    for action in _ACTION.finditer(template):
        text = template[at : action.start()]
        text = text.lstrip() if trim else text
        yield "text", text.rstrip() if action[1] else text
        yield "action", action[2]
        at, trim = action.end(), bool(action[3])
    rest = template[at:]
    assert "{{" not in rest, rest
    yield "text", rest.lstrip() if trim else rest


def _parse(tokens: Iterator[tuple[str, str]]) -> list[Any]:
    nodes: list[Any] = []
    for kind, value in tokens:
        words = _WORD.findall(value) if kind == "action" else []
        if kind == "text":
            nodes.append(("text", value))
        elif words[:1] in (["end"], ["else"]):
            return [*nodes, ("close", words)]
        elif words[:1] in (["range"], ["if"]):
            nodes.append(_block(words, tokens))
        else:
            nodes.append(("action", words))
    return nodes


def _block(words: list[str], tokens: Iterator[tuple[str, str]]) -> Any:
    *body, (_, close) = _parse(tokens)
    if close == ["end"]:
        return (words, body, [])
    assert close[:2] == ["else", "if"], close
    return (words, body, [_block(close[1:], tokens)])


def _run(nodes: list[Any], dot: Any, variables: dict[str, Any], top: Any) -> Iterator[str]:
    for node in nodes:
        if len(node) == 3:
            words, body, otherwise = node
            if words[0] == "range":
                for each in _value(words[1:], dot, variables, top):
                    yield from _run(body, each, variables, top)
            else:
                yield from _run(body if _value(words[1:], dot, variables, top) else otherwise, dot, variables, top)
        elif node[0] == "text":
            yield node[1]
        elif len(node[1]) > 1 and node[1][1] in (":=", "="):
            variables[node[1][0]] = _value(node[1][2:], dot, variables, top)
        else:
            yield _value(node[1], dot, variables, top)


def _value(words: list[str], dot: Any, variables: dict[str, Any], top: Any) -> Any:
    first, *rest = words
    if first == "not":
        return not _value(rest, dot, variables, top)
    if first == "eq":
        return _value(rest[:1], dot, variables, top) == _value(rest[1:], dot, variables, top)
    assert not rest, words
    if first.startswith('"'):
        return ast.literal_eval(first)  # of these escapes Go and Python have the same
    if first.startswith("$."):
        return top[first[2:]]
    return dot[first[1:]] if first.startswith(".") else variables[first]
