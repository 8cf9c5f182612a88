"""Chat templates: the built-in ones, and conversations rendered in a child process with bounded time and memory."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprnb.errors import ChatTemplateError
from aprnb.printable import message
from aprnb.tokenizer.sandbox.bounded_child import AnswerTooLarge, BoundedChild, ChildFailed, DeadlinePassed

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_ZEPHYR = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
TEMPLATES: Mapping[str, str] = {"chatml": CHATML, "llama3": _LLAMA3, "zephyr": _ZEPHYR}
CHOOSE_ANOTHER = f"name one with --chat-template ({', '.join(TEMPLATES)}, or a file)"

SECONDS_PER_BATCH, SECONDS_PER_REQUEST = 10.0, 0.01
_BATCH_REQUESTS, _BATCH_BYTES = 4_000, 8_000_000
# Limits of renderings as JSON. A template writes each message once, or twice (as text and as an argument in JSON), and
# text of its own: the longest default system text that we know, of Command R7B, has 2.7 kB. So legitimate renderings
# stay below 2 bytes per byte of input and 16 KiB on average over a batch; a single one may have 1 MiB more.
_BYTES_PER_INPUT_BYTE, _BYTES_PER_REQUEST, _BYTES_PER_RENDERING = 2, 16 * 1024, 1024**2
_PROBLEM_CHARACTERS = 400
_CHILD = Path(__file__).with_name("sandbox") / "template_child.py"


@dataclass(frozen=True)
class Request:
    """One conversation to render, with the tools that it offers."""

    messages: Sequence[Mapping[str, Any]]
    add_generation_prompt: bool
    tools: Sequence[Mapping[str, Any]] = ()

    def to_json(self) -> dict[str, Any]:
        """The template's variables."""
        tools = {"tools": list(self.tools)} if self.tools else {}
        return {"messages": list(self.messages), "add_generation_prompt": self.add_generation_prompt, **tools}


@dataclass(frozen=True)
class Rendering:
    """The text, or the error that the template raised."""

    text: str | None
    problem: str | None


def render(tokenizer: Any, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
    """One conversation as text; raises ChatTemplateError with the template's message."""
    [rendering] = render_all(tokenizer, [Request(messages, add_generation_prompt)])
    if rendering.text is None:
        raise ChatTemplateError(f"the chat template rejects the conversation: {rendering.problem}")
    return rendering.text


def render_all(tokenizer: Any, requests: Sequence[Request]) -> list[Rendering]:
    """Each request as text, through `tokenizer.chat_template`, in a process whose time and memory are bounded.

    Raises ChatTemplateError where the tokenizer has no template, the template is broken, or it exceeds its bounds.
    """
    template = require_template(tokenizer, action=CHOOSE_ANOTHER)
    variables = {name: str(text) for name, text in tokenizer.special_tokens_map.items() if text is not None}
    lines = [_json(request.to_json()) for request in requests]
    found: list[Rendering] = []
    while len(found) < len(lines):
        count = _batch_length(lines, len(found))
        found += _render_batch(template, variables, lines[len(found) : len(found) + count])
    return found


def require_template(tokenizer: Any, action: str) -> str:
    """The tokenizer's chat template; raises ChatTemplateError with this `action` where it has none."""
    template = tokenizer.chat_template
    if not isinstance(template, str):
        problem = getattr(tokenizer, "template_problem", None)
        raise ChatTemplateError(problem or "the checkpoint has no chat template", action=action)
    return template


def _json(document: Any) -> bytes:
    # not as escapes, of which two halves of a surrogate pair would be read as one character
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def _batch_length(lines: Sequence[bytes], start: int) -> int:
    size = 0
    for count, line in enumerate(lines[start : start + _BATCH_REQUESTS], 1):
        size += len(line)
        if size >= _BATCH_BYTES:
            return count
    return min(len(lines) - start, _BATCH_REQUESTS)


def _render_batch(template: str, variables: Mapping[str, str], lines: Sequence[bytes]) -> list[Rendering]:
    seconds = SECONDS_PER_BATCH + SECONDS_PER_REQUEST * len(lines)
    answer_bytes = _BYTES_PER_RENDERING + _BYTES_PER_REQUEST * len(lines) + _BYTES_PER_INPUT_BYTE * sum(map(len, lines))
    limits = {
        "seconds": seconds,
        "answer_bytes": answer_bytes,
        "rendering_bytes": _BYTES_PER_RENDERING,
        "bytes_per_input_byte": _BYTES_PER_INPUT_BYTE,
    }
    head = _json({"template": template, "variables": dict(variables), "requests": len(lines), **limits})
    try:
        with BoundedChild(_CHILD) as child:
            answer = child.ask(b"".join([head, *lines]), answer_bytes, seconds)
        return _read_renderings(answer, lines)
    except DeadlinePassed:
        raise ChatTemplateError(f"the chat template ran longer than {seconds:.0f} s", action=CHOOSE_ANOTHER) from None
    except AnswerTooLarge as problem:
        raise ChatTemplateError(f"the chat template's process wrote {problem}", action=CHOOSE_ANOTHER) from None
    except ChildFailed as problem:
        raise ChatTemplateError(f"the chat template crashed its process ({problem})", action=CHOOSE_ANOTHER) from None


def _read_renderings(answer: bytes, lines: Sequence[bytes]) -> list[Rendering]:
    """The answer of template_child.py to `lines`; raises ChildFailed where it is malformed."""
    stream = io.BytesIO(answer)
    found: list[Rendering] = []
    for line in lines:
        kind, text = _read_line(stream, _BYTES_PER_RENDERING + _BYTES_PER_INPUT_BYTE * len(line))
        if kind == b"unusable":
            raise ChatTemplateError(f"the chat template cannot be used: {text}", action=CHOOSE_ANOTHER)
        found.append(_rendering(text) if kind == b"text" else Rendering(None, message(text[:_PROBLEM_CHARACTERS])))
    return found


def _read_line(stream: io.BytesIO, most_bytes: int) -> tuple[bytes, str]:
    """Kind and text; other JSON, which can need far more memory than its bytes, is not decoded."""
    kind, _, quoted = stream.readline(most_bytes).partition(b" ")
    try:
        if not (quoted.startswith(b'"') and quoted.endswith(b'"\n')):
            raise ValueError
        text: str = json.loads(quoted.decode("utf-8", "surrogatepass"))
    except ValueError:
        raise ChildFailed("malformed answer") from None
    return kind, text


def _rendering(text: str) -> Rendering:
    try:
        text.encode()
    except UnicodeEncodeError as problem:
        sign = f"U+{ord(text[problem.start]):04X}"
        return Rendering(
            None, f"the rendered text contains half of a surrogate pair ({sign}), which UTF-8 cannot encode"
        )
    return Rendering(text, None)
