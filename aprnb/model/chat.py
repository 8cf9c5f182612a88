"""Chat templates: which one counts for a checkpoint, and conversations rendered with it under bounds."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprnb.architecture.families import family_named
from aprnb.errors import ChatTemplateError, FileMissing, closest
from aprnb.model.siblings import Siblings, read_object, read_text

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
_BATCH_REQUESTS, _BATCH_CHARACTERS = 4_000, 8_000_000
_CHILD = Path(__file__).with_name("template_child.py")


@dataclass(frozen=True)
class Template:
    """A chat template's text (None: there is none), where it comes from, and what was assumed."""

    text: str | None
    source: str
    assumptions: tuple[str, ...] = ()


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
    metadata: Mapping[str, Any], architecture: str, siblings: Siblings, wanted: str | None, tokenizer: Any
) -> Template:
    """The template that counts: the wanted one, the file's, the sibling's, the family's where that is certain.

    Raises ChatTemplateError where the wanted one is none, cannot be written with the tokenizer's tokens, or a template
    is too large or no text.
    """
    if wanted is not None:
        return _checked(_wanted_template(wanted, tokenizer))
    for key in ("chat_template", "tokenizer.chat_template"):
        if metadata.get(key):
            return _checked(Template(_single(metadata[key], f"metadata {key}"), f"metadata {key}"))
    beside = _sibling_template(siblings)
    if beside is not None:
        return _checked(beside)
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
    lines = [
        json.dumps({"messages": list(r.messages), "add_generation_prompt": r.add_generation_prompt}) for r in requests
    ]
    found: list[Rendering] = []
    while len(found) < len(lines):
        count = _batch_length(lines, len(found))
        found += _render_batch(template, variables, lines[len(found) : len(found) + count])
    return found


def _batch_length(lines: Sequence[str], start: int) -> int:
    characters = 0
    for count, line in enumerate(lines[start : start + _BATCH_REQUESTS], 1):
        characters += len(line)
        if characters >= _BATCH_CHARACTERS:
            return count
    return min(len(lines) - start, _BATCH_REQUESTS)


def _render_batch(template: str, variables: Mapping[str, str], lines: Sequence[str]) -> list[Rendering]:
    seconds = SECONDS_PER_BATCH + SECONDS_PER_REQUEST * len(lines)
    head = json.dumps({"template": template, "variables": dict(variables), "seconds": seconds})
    try:
        # -P keeps the modules of this folder off the child's path
        child = subprocess.run(
            [sys.executable, "-P", str(_CHILD)],
            input="\n".join([head, *lines]),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
            check=False,
        )
        answer = json.loads(child.stdout)
    except subprocess.TimeoutExpired:
        raise ChatTemplateError(f"the chat template ran longer than {seconds:.0f} s", action=_WAY_OUT) from None
    except json.JSONDecodeError:
        reason = child.stderr.strip().rpartition("\n")[2][:300] or f"exit status {child.returncode}"
        raise ChatTemplateError(f"the chat template broke its process ({reason})", action=_WAY_OUT) from None
    if "problem" in answer:
        raise ChatTemplateError(f"the chat template cannot be used: {answer['problem']}", action=_WAY_OUT)
    return [Rendering(text, problem) for text, problem in answer["renderings"]]


def _wanted_template(wanted: str, tokenizer: Any) -> Template:
    if wanted in TEMPLATES:
        missing = _missing_tokens(wanted, tokenizer)
        if missing:
            raise ChatTemplateError(
                f"template {wanted} writes {', '.join(missing)}, which this tokenizer does not have as tokens",
                action="give a template that fits the model: --chat-template FILE",
            )
        return Template(TEMPLATES[wanted], f"--chat-template {wanted}")
    if "{{" in wanted or "{%" in wanted:
        return Template(wanted, "--chat-template (text)")
    path = Path(wanted)
    if path.is_file():
        text = _template_of(read_object(path), wanted) if path.suffix == ".json" else read_text(path)
        if text is None:
            raise ChatTemplateError(f"{wanted} holds no chat_template", action=_WAY_OUT)
        return Template(text, f"--chat-template {wanted}")
    if path.suffix or len(path.parts) > 1:
        raise FileMissing(f"--chat-template {wanted}: no such file", action=_WAY_OUT)
    raise ChatTemplateError(f"--chat-template {wanted} is unknown{closest(wanted, TEMPLATES)}", action=_WAY_OUT)


def _missing_tokens(name: str, tokenizer: Any) -> list[str]:
    backend = tokenizer.backend_tokenizer
    missing = [text for text in _NEEDED_TOKENS[name] if backend.token_to_id(text) is None]
    if name == "zephyr" and tokenizer.eos_token is None:
        missing.append("an end-of-sequence token")
    return missing


def _sibling_template(siblings: Siblings) -> Template | None:
    if siblings.template is not None:
        return Template(read_text(siblings.template), f"{siblings.template.name} beside the file")
    if siblings.settings is not None:
        text = _template_of(read_object(siblings.settings), siblings.settings.name)
        if text is not None:
            return Template(text, f"{siblings.settings.name} beside the file")
    return None


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
