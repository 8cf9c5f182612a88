"""Renders chat templates in a process of its own, which its parent may kill; started as a script, never imported.

Templates come from files and are hostile: one expression (`10**10**10`, nested loops, a string doubled again and again)
is enough to hang or fill a process, and no sandbox bounds that. So time and memory are bounded from outside. What a
template can see equals what transformers gives it; transformers itself is not imported, since that takes a second.

stdin: one JSON object {template, variables, seconds}, then one JSON object {messages, add_generation_prompt} per line.
stdout: one JSON object, {problem} or {renderings: [[text, problem], ...]}.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Iterator
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MEMORY_BYTES = 1024**3
OUTPUT_CHARACTERS = 1024**2
OUTPUT_PER_INPUT_CHARACTER = 8
PROBLEM_CHARACTERS = 300


class Generation(Extension):
    """`{% generation %}` blocks, with which some templates mark answers: rendered as if the tags were not there."""

    tags = {"generation"}  # noqa: RUF012  jinja2 declares a plain set

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class PublicNamespace(Namespace):
    """A namespace without names that begin with an underscore, which lead into Python's own objects."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args
        names = dict(*rest, **kwargs)
        for name in names:
            _refuse_private(name)
        Namespace.__init__(self, names)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        Namespace.__setitem__(self, name, value)


def _refuse_private(name: Any) -> None:
    if str(name).startswith("_"):
        raise jinja2.exceptions.SecurityError(f"namespace name {name!r} begins with an underscore")


def _raise_exception(message: Any) -> None:
    raise jinja2.exceptions.TemplateError(str(message))


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    # jinja2's own filter would escape HTML characters
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)


class _Dict:
    """`dict(...)` without the attributes of the class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)


def environment() -> ImmutableSandboxedEnvironment:
    """The sandbox, with the filters and functions that chat templates expect."""
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = _to_json
    made.globals |= {"raise_exception": _raise_exception, "strftime_now": _now, "dict": _Dict()}
    made.globals["namespace"] = PublicNamespace
    return made


def rendered(template: jinja2.Template, variables: dict[str, Any], line: str) -> tuple[str | None, str | None]:
    """Text and problem of one request, one of them None."""
    request = json.loads(line)
    limit = OUTPUT_CHARACTERS + OUTPUT_PER_INPUT_CHARACTER * len(line)
    try:
        return "".join(_bounded(template.generate(**variables, **request), limit)), None
    except (Exception, RecursionError, MemoryError) as problem:
        return None, _told(problem)


def _bounded(parts: Iterator[str], limit: int) -> Iterator[str]:
    for part in parts:
        limit -= len(part)
        if limit < 0:
            raise OverflowError("the rendered text grows without bound")
        yield part


def _told(problem: BaseException) -> str:
    place = f" (line {problem.lineno})" if isinstance(problem, jinja2.TemplateSyntaxError) else ""
    named = "" if isinstance(problem, jinja2.exceptions.TemplateError) else f"{type(problem).__name__}: "
    return f"{named}{str(problem)[:PROBLEM_CHARACTERS]}{place}"


def _limit_this_process(seconds: float) -> None:
    try:
        import resource
    except ImportError:  # not a POSIX system: the parent's clock and the bound on the output remain
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))


def main() -> None:
    """Reads the requests, answers once."""
    head = json.loads(sys.stdin.readline())
    _limit_this_process(head["seconds"])
    try:
        template = environment().from_string(head["template"])
    except (Exception, RecursionError, MemoryError) as problem:
        print(json.dumps({"problem": _told(problem)}))  # noqa: T201  the answer to the parent
        return
    variables = {**head["variables"], "tools": None, "documents": None}
    print(json.dumps({"renderings": [rendered(template, variables, line) for line in sys.stdin]}))  # noqa: T201


if __name__ == "__main__":
    main()
