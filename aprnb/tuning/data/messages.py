"""Messages of training rows: role, text, tool calls, thinking, and whether an answer is trained (no torch).

Each error names the message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from aprnb.errors import closest
from aprnb.tuning.data.row_values import BadRow, as_list, is_empty, json_type, note_keys, read_text, require_no
from aprnb.tuning.data.tool_use import called, read_calls

ROLES = ("system", "developer", "user", "assistant", "tool")
_CALL = "function_call"
_SHAREGPT_ROLES = {
    "human": "user", "gpt": "assistant", "model": "assistant", "chatgpt": "assistant", _CALL: "assistant",
    "observation": "tool",
}  # fmt: skip
THINKING = ("reasoning_content", "thinking", "reasoning")
"""The names under which rows and chat templates have what a model thought before its answer."""
_NAMING = ("name", "tool_call_id")
_UNSUPPORTED = ("function_call", "images", "image", "audio", "videos")
"""Keys of a message that templates or models use and that training would lose."""


@dataclass(frozen=True)
class Message:
    """One turn: `role` is one of `ROLES`; an answer that is not `trained` is context only.

    `more` has what else chat templates read: `tool_calls`, `reasoning_content`, `name`, `tool_call_id`.
    """

    role: str
    content: str
    trained: bool = True
    more: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def thinking(self) -> str:
        """What was thought before the content; empty where the row has none."""
        return str(self.more.get(THINKING[0], ""))

    def to_json(self) -> dict[str, Any]:
        """The message without whether it is trained, as a row has it."""
        return {"role": self.role, "content": self.content, **self.more}


def read_messages(value: Any, name: str, ignored: dict[str, None]) -> tuple[Message, ...]:
    """The messages in the list `value`, the row's key `name`; keys without a use are added to `ignored`."""
    turns = as_list(value)
    if not isinstance(turns, (list, tuple)) or not turns:
        raise BadRow(f"{name} is empty" if turns in ([], ()) else f"{name} is {json_type(turns)}, not a list")
    return tuple(_message(turn, f"message {at}", f"{name}.", ignored) for at, turn in enumerate(turns, 1))


def _message(turn: Any, where: str, prefix: str, ignored: dict[str, None]) -> Message:
    if not isinstance(turn, Mapping):
        raise BadRow(f"{where} is {json_type(turn)}, not an object")
    names = ("from", "value") if turn.get("role") is None and turn.get("from") is not None else ("role", "content")
    require_no(turn, _UNSUPPORTED, where)
    role = _role(turn.get(names[0]), names[0], where)
    more = _more(turn, where)
    given, what = turn.get(names[1]), f"{names[1]} of {where}"
    content = "" if given is None and "tool_calls" in more else _content(given, what)
    if turn.get(names[0]) == _CALL:
        content, more = "", {**more, "tool_calls": called(content, where)}
    if role != "assistant" and ("tool_calls" in more or THINKING[0] in more):
        raise BadRow(f"{where} has tool calls or thinking and role {role}: only answers have them")
    if role == "assistant" and not content.strip() and "tool_calls" not in more:
        raise BadRow(f"{where} is an empty answer")
    note_keys(turn, (*names, *THINKING, *_NAMING, "tool_calls", "weight", "train"), prefix, ignored)
    return Message(role, content, _trained(turn, role, where), more)


def _more(turn: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """`Message.more`; thinking may have any of three names."""
    more: dict[str, Any] = {}
    if not is_empty(turn.get("tool_calls")):
        more["tool_calls"] = read_calls(turn["tool_calls"], where)
    thinking = {name: read_text(turn[name], f"{name} of {where}") for name in THINKING if not is_empty(turn.get(name))}
    if len(set(thinking.values())) > 1:
        raise BadRow(f"{where} has {' and '.join(thinking)}, which differ")
    if thinking:
        more[THINKING[0]] = next(iter(thinking.values()))
    return more | {
        name: read_text(turn[name], f"{name} of {where}") for name in _NAMING if not is_empty(turn.get(name))
    }


def _role(given: Any, key: str, where: str) -> str:
    role = _SHAREGPT_ROLES.get(given, given) if key == "from" and isinstance(given, str) else given
    if role not in ROLES:
        near = closest(role, ROLES) if isinstance(role, str) else ""
        known = (*_SHAREGPT_ROLES, *ROLES) if key == "from" else ROLES
        raise BadRow(f"{where} has {key} {str(given)[:40]!r}{near}, not one of {', '.join(known)}")
    return str(role)


def _content(value: Any, what: str) -> str:
    """Text, or the text parts of a list joined without a separator, as chat templates join them."""
    parts = as_list(value)
    if not isinstance(parts, (list, tuple)):
        return read_text(value, what)
    texts: list[str] = []
    for at, part in enumerate(parts, 1):
        if not isinstance(part, Mapping) or part.get("type") != "text":
            kind = repr(str(part.get("type"))[:40]) if isinstance(part, Mapping) else json_type(part)
            raise BadRow(f"part {at} of {what} is of type {kind}, not a text part")
        texts.append(read_text(part.get("text"), f"part {at} of {what}"))
    return "".join(texts)


def _trained(turn: Mapping[Any, Any], role: str, where: str) -> bool:
    """What `weight` (0 or 1) and `train` (true or false) say; without them every answer is trained."""
    found: dict[str, bool] = {}
    for key, wanted in (("weight", "0 or 1"), ("train", "true or false")):
        if (given := turn.get(key)) is None:
            continue
        if not isinstance(given, Real if key == "weight" else bool) or given not in (0, 1):
            raise BadRow(f"{where} has {key} {str(given)[:40]!r}, not {wanted}")
        if given and role != "assistant":
            raise BadRow(f"{where} has {key} {given} and role {role}: only answers are trained")
        found[key] = bool(given)
    if len(set(found.values())) > 1:
        raise BadRow(f"{where} has weight {turn['weight']} and train {turn['train']}, which contradict each other")
    return all(found.values())
