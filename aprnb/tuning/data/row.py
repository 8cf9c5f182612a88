"""The three kinds of training rows: a conversation, a plain text, and tokens (no torch)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aprnb.tuning.data.messages import THINKING, Message

NOT_TRAINED = -100
"""The label of a token that is not trained, in transformers and TRL."""


@dataclass(frozen=True)
class Row:
    """One conversation and the tools that it offers; `origin` is its place in the source, for errors."""

    messages: tuple[Message, ...]
    origin: str
    tools: tuple[Mapping[str, Any], ...] = ()

    @property
    def key(self) -> bytes:
        """What makes rows equal: conversations that differ only in what is trained have equal ones."""
        return _line(self._document([message.to_json() for message in self.messages]))

    @property
    def line(self) -> bytes:
        """The row as a line of JSON, with what is not trained."""
        return _line(self._document([_weighted(message) for message in self.messages]))

    def for_template(self, template: str) -> Row:
        """The row with its developer turns as system turns where the template does not know the role."""
        if "developer" in template or not any(message.role == "developer" for message in self.messages):
            return self
        turns = (replace(turn, role="system") if turn.role == "developer" else turn for turn in self.messages)
        return replace(self, messages=tuple(turns))

    def rendered(self) -> list[dict[str, Any]]:
        """The messages as a chat template takes them: thinking has a name of its own in each family."""
        thoughts = (dict.fromkeys(THINKING, turn.thinking) if turn.thinking else {} for turn in self.messages)
        return [{**turn.to_json(), **thought} for turn, thought in zip(self.messages, thoughts, strict=True)]

    def _document(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        return {"messages": messages, **({"tools": list(self.tools)} if self.tools else {})}


@dataclass(frozen=True)
class TextRow:
    """A plain text, of which every token is trained."""

    text: str
    origin: str

    @property
    def key(self) -> bytes:
        """What makes rows equal."""
        return self.line

    @property
    def line(self) -> bytes:
        """The row as a line of JSON."""
        return _line({"text": self.text})


@dataclass(frozen=True)
class TokenRow:
    """Tokens [T] of a tokenizer, used as they are; `labels_mask` [T] says which are trained."""

    input_ids: NDArray[np.int32]
    labels_mask: NDArray[np.bool_]
    origin: str

    @property
    def key(self) -> bytes:
        """What makes rows equal."""
        return _line({"input_ids": self.input_ids.tolist()})

    @property
    def line(self) -> bytes:
        """The row as a line of JSON, with labels."""
        labels = np.where(self.labels_mask, self.input_ids, NOT_TRAINED)
        return _line({"input_ids": self.input_ids.tolist(), "labels": labels.tolist()})


AnyRow = Row | TextRow | TokenRow


def _weighted(message: Message) -> dict[str, Any]:
    weight = {} if message.trained or message.role != "assistant" else {"weight": 0}
    return {**message.to_json(), **weight}


def _line(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8") + b"\n"
