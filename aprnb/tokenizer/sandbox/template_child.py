"""Renders chat templates in a process of its own, which its parent may kill; started as a script, never imported.

Templates come from files and are untrusted: one expression (`10**10**10`, nested loops, a string doubled repeatedly) is
enough to block a process or fill its memory, and no sandbox bounds that. So time and memory are bounded from outside. A
template sees what transformers would give it; transformers itself is not imported, since that takes a second.

stdin: a line with the JSON object {template, variables, requests, seconds, rendering_bytes, bytes_per_input_byte,
answer_bytes}, then `requests` lines with a JSON object {messages, add_generation_prompt, tools?} each.
stdout: one answer as bounded_child.py reads it, of lines `KIND "TEXT"`, the text as JSON. KIND is `text` or `problem`,
one for each request; or it is `unusable`, in a single line, for the whole template.
Both are UTF-8 with lone surrogates passed through, so that both processes have the same text.
"""

from __future__ import annotations

import datetime
import faulthandler
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MEMORY_BYTES = 1024**3
PROBLEM_CHARACTERS = 300
GROWS = "the rendered text grows without bound"


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
            _reject_private(name)
        Namespace.__init__(self, names)

    def __setitem__(self, name: str, value: Any) -> None:
        _reject_private(name)
        Namespace.__setitem__(self, name, value)


def _reject_private(name: Any) -> None:
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


def answered(head: dict[str, Any], lines: Iterable[bytes]) -> bytes:
    """The answer to all requests."""
    try:
        template = environment().from_string(head["template"])
    except (Exception, RecursionError, MemoryError) as problem:
        return _line("unusable", _told(problem))
    variables = {**head["variables"], "tools": None, "documents": None}
    answer, most_bytes = bytearray(), head["answer_bytes"]
    for line in lines:
        rendering_bytes = head["rendering_bytes"] + head["bytes_per_input_byte"] * len(line)
        answer += rendered(template, variables, line, rendering_bytes)
        if len(answer) > most_bytes:
            return _line("unusable", f"{head['requests']:,} rendered conversations have more than {most_bytes:,} bytes")
    return bytes(answer)


def rendered(template: jinja2.Template, variables: dict[str, Any], line: bytes, most_bytes: int) -> bytes:
    """The answer's line for one request, of at most `most_bytes`: its text, or the problem."""
    request = json.loads(line.decode("utf-8", "surrogatepass"))
    try:
        found = _line("text", "".join(_bounded(template.generate(**{**variables, **request}), most_bytes)))
        if len(found) > most_bytes:
            raise OverflowError(GROWS)
    except (Exception, RecursionError, MemoryError) as problem:
        return _line("problem", _told(problem))
    return found


def _bounded(parts: Iterator[str], limit: int) -> Iterator[str]:
    for part in parts:
        limit -= len(part)
        if limit < 0:
            raise OverflowError(GROWS)
        yield part


def _line(kind: str, text: str) -> bytes:
    return f"{kind} {json.dumps(text, ensure_ascii=False)}\n".encode("utf-8", "surrogatepass")


def _told(problem: BaseException) -> str:
    place = f" (line {problem.lineno})" if isinstance(problem, jinja2.TemplateSyntaxError) else ""
    named = "" if isinstance(problem, jinja2.exceptions.TemplateError) else f"{type(problem).__name__}: "
    return f"{named}{str(problem)[:PROBLEM_CHARACTERS]}{place}"


def _limit_this_process(seconds: float) -> None:
    # Ends this process also where its parent was killed; needs no interpreter lock, so 10**10**10 does not delay it.
    faulthandler.dump_traceback_later(seconds + 1, exit=True)
    try:
        import resource
    except ImportError:  # not a POSIX system: the two clocks and the bounds on the output remain
        return
    try:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    except (OSError, ValueError):
        if sys.platform == "linux":  # macOS does not accept every limit: the clocks remain
            raise
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))


def main() -> None:
    """Reads the requests, answers once."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    head = json.loads(requests.readline().decode("utf-8", "surrogatepass"))
    _limit_this_process(head["seconds"])
    answer = answered(head, islice(requests, head["requests"]))
    answers.write(len(answer).to_bytes(8, "little"))
    answers.write(answer)
    answers.flush()


if __name__ == "__main__":
    main()
