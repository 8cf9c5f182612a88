"""Chat templates: which one counts for a checkpoint, and conversations rendered with it under bounds."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprnb.architecture.families import family_named
from aprnb.errors import ChatTemplateError, FileMissing, closest
from aprnb.formats.sidecar_files import Sidecars
from aprnb.formats.source import is_file
from aprnb.printable import message
from aprnb.tokenizer.sandbox.bounded_child import AnswerTooLarge, BoundedChild, ChildFailed, DeadlinePassed
from aprnb.tokenizer.sidecar_files import as_tokenizer_error, read_object, read_text
from aprnb.tokenizer.stated_template import stated_template

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
_NEEDED_TOKENS = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "zephyr": (),
}
_WAY_OUT = f"name one with --chat-template ({', '.join(TEMPLATES)}, or a file)"

MAX_TEMPLATE_CHARACTERS = 256 * 1024  # the longest published ones have some 50,000
SECONDS_PER_BATCH, SECONDS_PER_REQUEST = 10.0, 0.01
_BATCH_REQUESTS, _BATCH_BYTES = 4_000, 8_000_000
# Limits of renderings as JSON. A template writes each message once, or twice (as text and as an argument in JSON), and
# text of its own: the longest default system text that we know, of Command R7B, has 2.7 kB. So honest renderings stay
# below 2 bytes per byte of input and 16 KiB on average over a batch; a single one may have 1 MiB more.
_BYTES_PER_INPUT_BYTE, _BYTES_PER_REQUEST, _BYTES_PER_RENDERING = 2, 16 * 1024, 1024**2
_PROBLEM_CHARACTERS = 400
_CHILD = Path(__file__).with_name("sandbox") / "template_child.py"


@dataclass(frozen=True)
class Template:
    """A chat template's text (None: there is none), where it comes from, and what was assumed."""

    text: str | None
    source: str
    assumptions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """One rendering that is wanted."""

    messages: Sequence[Mapping[str, str]]
    add_generation_prompt: bool


@dataclass(frozen=True)
class Rendering:
    """The text, or what the template said against the conversation."""

    text: str | None
    problem: str | None


def choose_template(
    metadata: Mapping[str, Any], architecture: str, sidecars: Sidecars, wanted: str | None, tokenizer: Any
) -> Template:
    """The template that counts: the wanted one, the file's, the sidecar's, the family's where that is certain.

    Raises ChatTemplateError where the wanted one is none, cannot be written with the tokenizer's tokens, or a template
    is too large or no text.
    """
    if wanted is not None:
        return _checked(_wanted_template(wanted, tokenizer))
    with as_tokenizer_error():
        stated = stated_template(metadata, sidecars)
    if stated is not None:
        text = _single(stated.value, stated.source)
        return _checked(Template(text, stated.source, warnings=stated.warnings))
    family = family_named(architecture)
    name = family.certain_chat_template if family else None
    if name and not _missing_tokens(name, tokenizer):
        rule = f"rule of the {architecture} family ({name})"
        note = f"chat template: {name}, by the rule of the {architecture} family; the file and its folder hold none"
        return Template(TEMPLATES[name], rule, (note,))
    return Template(None, "absent")


def render(tokenizer: Any, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
    """One conversation as text; raises ChatTemplateError with what the template said."""
    [rendering] = render_all(tokenizer, [Request(messages, add_generation_prompt)])
    if rendering.text is None:
        raise ChatTemplateError(f"the chat template refuses the conversation: {rendering.problem}")
    return rendering.text


def render_all(tokenizer: Any, requests: Sequence[Request]) -> list[Rendering]:
    """Each request as text, through `tokenizer.chat_template`, in a process whose time and memory are bounded.

    Raises ChatTemplateError where the tokenizer has no template, the template is broken, or it exceeds its bounds.
    """
    template = tokenizer.chat_template
    if not isinstance(template, str):
        raise ChatTemplateError("the checkpoint has no chat template", action=_WAY_OUT)
    variables = {name: str(text) for name, text in tokenizer.special_tokens_map.items() if text is not None}
    lines = [_json({"messages": list(r.messages), "add_generation_prompt": r.add_generation_prompt}) for r in requests]
    found: list[Rendering] = []
    while len(found) < len(lines):
        count = _batch_length(lines, len(found))
        found += _render_batch(template, variables, lines[len(found) : len(found) + count])
    return found


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
        raise ChatTemplateError(f"the chat template ran longer than {seconds:.0f} s", action=_WAY_OUT) from None
    except AnswerTooLarge as problem:
        raise ChatTemplateError(f"the chat template's process wrote {problem}", action=_WAY_OUT) from None
    except ChildFailed as problem:
        raise ChatTemplateError(f"the chat template broke its process ({problem})", action=_WAY_OUT) from None


def _read_renderings(answer: bytes, lines: Sequence[bytes]) -> list[Rendering]:
    """What template_child.py wrote for `lines`; raises ChildFailed where the answer is malformed."""
    stream = io.BytesIO(answer)
    found: list[Rendering] = []
    for line in lines:
        kind, text = _read_line(stream, _BYTES_PER_RENDERING + _BYTES_PER_INPUT_BYTE * len(line))
        if kind == b"unusable":
            raise ChatTemplateError(f"the chat template cannot be used: {text}", action=_WAY_OUT)
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


def _wanted_template(wanted: str, tokenizer: Any) -> Template:
    if wanted in TEMPLATES:
        missing = _missing_tokens(wanted, tokenizer)
        if missing:
            raise ChatTemplateError(
                f"template {wanted} writes {', '.join(missing)}, which this tokenizer does not have as tokens",
                action="give a template that fits the model: --chat-template FILE",
            )
        return Template(TEMPLATES[wanted], f"--chat-template {wanted}")
    path = Path(wanted)
    if not is_file(path) and ("{{" in wanted or "{%" in wanted):
        return Template(wanted, "--chat-template (text)")
    if is_file(path):
        text = _template_of(read_object(path), wanted) if path.suffix == ".json" else read_text(path)
        if text is None:
            raise ChatTemplateError(f"{wanted} holds no chat_template", action=_WAY_OUT)
        return Template(text, f"--chat-template {wanted}")
    if path.suffix or len(path.parts) > 1:
        raise FileMissing(f"--chat-template {wanted}: no such file, or none that can be read", action=_WAY_OUT)
    raise ChatTemplateError(f"--chat-template {wanted} is unknown{closest(wanted, TEMPLATES)}", action=_WAY_OUT)


def _missing_tokens(name: str, tokenizer: Any) -> list[str]:
    backend = tokenizer.backend_tokenizer
    missing = [text for text in _NEEDED_TOKENS[name] if backend.token_to_id(text) is None]
    if name == "zephyr" and tokenizer.eos_token is None:
        missing.append("an end-of-sequence token")
    return missing


def _template_of(settings: Mapping[str, Any], where: str) -> str | None:
    found = settings.get("chat_template")
    return None if found is None else _single(found, where)


def _single(found: Any, where: str) -> str:
    """The text; of a list of named templates the one called default."""
    if isinstance(found, list) and all(isinstance(each, dict) for each in found):
        named = {str(each.get("name")): each.get("template") for each in found}
        if not isinstance(named.get("default"), str):
            names = ", ".join(list(named)[:10])
            raise ChatTemplateError(
                f"{where} holds several templates ({names}) and none called default",
                action="save the one you want to a file: --chat-template FILE",
            )
        found = named["default"]
    if not isinstance(found, str):
        raise ChatTemplateError(
            f"the chat template in {where} is {type(found).__name__}", expected="text", action=_WAY_OUT
        )
    return found


def _checked(template: Template) -> Template:
    if template.text is not None and len(template.text) > MAX_TEMPLATE_CHARACTERS:
        raise ChatTemplateError(
            f"the chat template ({template.source}) has {len(template.text):,} characters",
            expected=f"at most {MAX_TEMPLATE_CHARACTERS:,}", action=_WAY_OUT,
        )  # fmt: skip
    return template
