"""Messages of training rows: role, text, and whether an answer is trained; each error names the message (no torch)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from aprnb.errors import closest

ROLES = ("system", "developer", "user", "assistant")
_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "chatgpt": "assistant"}
_REASONING = ("reasoning_content", "reasoning", "thinking")
_UNSUPPORTED = ("tool_calls", "function_call", "tool_call_id", "images", "image", "audio", "videos", *_REASONING)
"""Keys of a message that templates or models use and that training would lose."""


class BadRow(Exception):
    """Why a row cannot be used, and what to do; `read_rows` adds which row it is."""

    def __init__(self, reason: str, action: str = "") -> None:
        super().__init__(reason)
        self.action = action


@dataclass(frozen=True)
class Message:
    """One turn: `role` is one of `ROLES`; an answer that is not `trained` is context only."""

    role: str
    content: str
    trained: bool = True


def read_messages(value: Any, name: str, ignored: dict[str, None]) -> tuple[Message, ...]:
    """The messages in the list `value`, the row's key `name`; keys without a use are added to `ignored`."""
    turns = value.tolist() if hasattr(value, "tolist") else value  # data frames contain arrays
    if not isinstance(turns, (list, tuple)) or not turns:
        raise BadRow(f"{name} is empty" if turns in ([], ()) else f"{name} is {json_type(turns)}, not a list")
    return tuple(_message(turn, f"message {at}", f"{name}.", ignored) for at, turn in enumerate(turns, 1))


def read_text(value: Any, what: str) -> str:
    """`value` where it is text that UTF-8 can encode."""
    if not isinstance(value, str):
        raise BadRow(f"{what} is {json_type(value)}, not text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRow(f"{what} contains half a surrogate pair, which is not a character") from None
    return value


def json_type(value: Any) -> str:
    """What JSON calls the type of `value`."""
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def note_keys(value: Mapping[Any, Any], known: Sequence[str], prefix: str, ignored: dict[str, None]) -> None:
    """Adds the keys of `value` that are not `known` and not empty to `ignored`."""
    for key, content in value.items():
        if key not in known and not _is_empty(content):
            ignored[f"{prefix}{key}"] = None


def require_no(value: Mapping[Any, Any], keys: Sequence[str], where: str) -> None:
    """Raises BadRow for a key of `keys` that has a value: to ignore it would change what the row means."""
    for key in keys:
        if not _is_empty(value.get(key)):
            action = "write the thinking into content, as the chat template has it" if key in _REASONING else ""
            raise BadRow(
                f"{where} has {key!r}, which is not supported", action or f"remove the rows with {key}, or the key"
            )


def _is_empty(value: Any) -> bool:
    return value is None or (hasattr(value, "__len__") and not isinstance(value, Mapping) and len(value) == 0)


def _message(turn: Any, where: str, prefix: str, ignored: dict[str, None]) -> Message:
    if not isinstance(turn, Mapping):
        raise BadRow(f"{where} is {json_type(turn)}, not an object")
    names = ("from", "value") if turn.get("role") is None and turn.get("from") is not None else ("role", "content")
    require_no(turn, _UNSUPPORTED, where)
    role = _role(turn.get(names[0]), names[0], where)
    content = _content(turn.get(names[1]), f"{names[1]} of {where}")
    if role == "assistant" and not content.strip():
        raise BadRow(f"{where} is an empty answer")
    note_keys(turn, (*names, "weight", "train"), prefix, ignored)
    return Message(role, content, _trained(turn, role, where))


def _role(given: Any, key: str, where: str) -> str:
    role = _SHAREGPT_ROLES.get(given, given) if key == "from" and isinstance(given, str) else given
    if role not in ROLES:
        near = closest(role, ROLES) if isinstance(role, str) else ""
        known = (*_SHAREGPT_ROLES, *ROLES) if key == "from" else ROLES
        raise BadRow(f"{where} has {key} {str(given)[:40]!r}{near}, not one of {', '.join(known)}")
    return str(role)


def _content(value: Any, what: str) -> str:
    """Text, or the text parts of a list joined without a separator, as chat templates join them."""
    parts = value.tolist() if hasattr(value, "tolist") else value
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
