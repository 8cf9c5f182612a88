"""The forms of a training row, recognised by its keys, and read as one of the three kinds of rows (no torch)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from numbers import Real
from typing import Any

from aprnb.errors import closest
from aprnb.printable import first_names
from aprnb.tuning.data.messages import Message, read_messages
from aprnb.tuning.data.row import AnyRow, Row, TextRow
from aprnb.tuning.data.row_values import BadRow, json_type, note_keys, read_text, require_no
from aprnb.tuning.data.token_rows import read_tokens
from aprnb.tuning.data.tool_use import read_tools

ROW_FORMS = '{"instruction", "response", ["system"], ["input"]}, {"messages": [{"role", "content"}, …]} or {"text"}'
_INSTRUCTION_KEYS = ("instruction", "response", "system", "input")
_UNSUPPORTED = ("functions", "tool_calls", "history", "image", "images", "audio", "video", "videos")
"""Keys of a row that change what it means and that training would lose."""
_OTHER_FORMS = {
    ("chosen", "rejected"): ("a preference row (chosen, rejected)", "name the answer to learn response or completion"),
}
_QUESTIONS = ("instruction", "prompt", "question", "query", "problem", "input", "user", "q")
_ANSWERS = ("response", "output", "completion", "answer", "solution", "target", "reply", "assistant", "a")

Ignored = dict[str, None]


def read_form(value: Any, origin: str, ignored: Ignored) -> tuple[str, AnyRow]:
    """The name of the row's form and the row; keys without a use are added to `ignored`.

    Raises BadRow with the reason where the row is of no form that is supported.
    """
    if not isinstance(value, Mapping):
        wanted = "one object per line" if isinstance(value, list) else "an object"
        raise BadRow(f"a JSON {json_type(value)}, not {wanted}")
    row = {key: content for key, content in value.items() if content is not None}
    require_no(row, _UNSUPPORTED, "the row")
    for key, neutral in (("weight", 1), ("train", True)):
        if key in row and not (isinstance(row[key], Real) and row[key] == neutral):
            raise BadRow(f"the row has {key!r}, which is not supported", "give it to the messages: 0 or 1")
    form = next((form for keys, form in _FORMS.items() if all(key in row for key in keys)), None)
    if form is None:
        raise _unknown(row)
    name, read = form
    return name, read(row, origin, ignored)


def _from_messages(row: Mapping[str, Any], origin: str, ignored: Ignored) -> Row:
    both = [key for key in _INSTRUCTION_KEYS if key in row]
    if both:
        raise BadRow(f"has both messages and {both[0]}: use one of the two forms")
    note_keys(row, ("messages", "tools"), "", ignored)
    return Row(read_messages(row["messages"], "messages", ignored), origin, read_tools(row.get("tools")))


def _from_sharegpt(row: Mapping[str, Any], origin: str, ignored: Ignored) -> Row:
    note_keys(row, ("conversations", "system", "tools"), "", ignored)
    turns = read_messages(row["conversations"], "conversations", ignored)
    return Row((*_system(row), *turns), origin, read_tools(row.get("tools")))


def _from_instruction(row: Mapping[str, Any], origin: str, ignored: Ignored) -> Row:
    require_no(row, ("tools",), "the row")
    if "response" in row and "output" in row:
        raise BadRow("has both response and output: use one of the two forms")
    answer = "response" if "response" in row else "output"
    note_keys(row, ("instruction", answer, "system", "input"), "", ignored)
    instruction, response = _filled(row, "instruction"), _filled(row, answer)
    extra = read_text(row.get("input", ""), "input")
    question = f"{instruction}\n\n{extra}" if extra.strip() else instruction
    return Row((*_system(row), Message("user", question), Message("assistant", response)), origin)


def _from_prompt(row: Mapping[str, Any], origin: str, ignored: Ignored) -> Row:
    if "label" in row:
        raise BadRow("the row has 'label' (is the answer good), which is not supported", "keep the good answers only")
    note_keys(row, ("prompt", "completion", "system", "tools"), "", ignored)
    parts: list[Message] = []
    for key, role in (("prompt", "user"), ("completion", "assistant")):
        if isinstance(row[key], str):
            parts.append(Message(role, _filled(row, key)))
        else:  # the answers of a prompt are not trained, as in TRL
            read = read_messages(row[key], key, ignored)
            is_context = role == "user"
            parts += [
                replace(turn, trained=False) if is_context and turn.role == "assistant" else turn for turn in read
            ]
    return Row((*_system(row), *parts), origin, read_tools(row.get("tools")))


def _from_text(row: Mapping[str, Any], origin: str, ignored: Ignored) -> TextRow:
    label = next((key for key in ("label", "labels") if key in row), None)
    if label:
        found = f"a row of a classification (text, {label}), which is not supported"
        raise BadRow(found, "write the label as the response of an instruction")
    require_no(row, ("tools",), "the row")
    note_keys(row, ("text",), "", ignored)
    return TextRow(_filled(row, "text"), origin)


_Reader = Callable[[Mapping[str, Any], str, Ignored], AnyRow]
_FORMS: Mapping[tuple[str, ...], tuple[str, _Reader]] = {
    ("messages",): ("messages", _from_messages),
    ("conversations",): ("ShareGPT", _from_sharegpt),
    ("instruction", "response"): ("instruction/response", _from_instruction),
    ("instruction", "output"): ("alpaca", _from_instruction),
    ("prompt", "completion"): ("prompt/completion", _from_prompt),
    ("input_ids",): ("tokens", read_tokens),
    ("text",): ("plain text", _from_text),
}
"""The keys that a form needs, in the order in which forms are recognised: its name and its reader."""


def _system(row: Mapping[str, Any]) -> tuple[Message, ...]:
    system = read_text(row.get("system", ""), "system")
    return (Message("system", system),) if system.strip() else ()


def _filled(row: Mapping[str, Any], key: str) -> str:
    text = read_text(row[key], key)
    if not text.strip():
        raise BadRow(f"empty {key}")
    return text


def _unknown(row: Mapping[str, Any]) -> BadRow:
    """What the row looks like, and how it becomes one of the forms."""
    for keys, (found, action) in _OTHER_FORMS.items():
        if all(key in row for key in keys):
            return BadRow(f"{found}, which is not supported", action)
    for key, missing, like in (("instruction", "response", _ANSWERS), ("response", "instruction", _QUESTIONS)):
        if key in row and missing not in row:
            near = next((str(each) for each in row if closest(str(each), [missing]) or str(each).lower() in like), "")
            return BadRow(f"no {missing}" + (f", but a key {near!r}" if near else ""))
    names = {str(key).lower(): str(key) for key in row}
    question = next((names[name] for name in _QUESTIONS if name in names), "")
    answer = next((names[name] for name in _ANSWERS if name in names), "")
    shown = first_names([repr(str(key)[:60]) for key in row], 8) or "none"
    action = f"give --columns instruction={question},response={answer}" if question and answer else ""
    return BadRow(f"the row is of no known form; its keys are {shown}", action)
