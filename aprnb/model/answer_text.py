"""The text of an answer that grows token by token: whole characters only, up to a stop text (no torch)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from aprnb.model.prompt import Prompt

StopReason = Literal["eos", "length", "stop", "interrupted"]
_INCOMPLETE = "\ufffd"
"""How decoders write the bytes of a character whose last bytes are missing."""


class AnswerText:
    """Takes ids one by one; `on_text` gets each part of the text as soon as later tokens cannot change it.

    Attributes:
        ids: all ids so far, the one that stopped the answer included.
        text: the text so far, cut in front of a stop text.
        reason: why the answer stopped; "length" until then.
        stop_id: the token that stopped it.
        stop_text: the stop text that it reached.
    """

    def __init__(self, prompt: Prompt, decode: Callable[[list[int]], str], on_text: Callable[[str], object]) -> None:
        self.ids: list[int] = []
        self.text = ""
        self.reason: StopReason = "length"
        self.stop_id: int | None = None
        self.stop_text: str | None = None
        self._prompt, self._decode, self._on_text = prompt, decode, on_text
        self._shown_ids: list[int] = []
        self._window, self._read, self._sent = 0, 0, 0

    def push(self, number: int) -> bool:
        """Adds a token; returns whether the answer ends with it."""
        self.ids.append(number)
        if number in self._prompt.stop_ids:
            self._stop("stop", number, self._prompt.stop_ids[number])
        elif number in self._prompt.end_ids:
            self._stop("eos", number)
        else:
            self._shown_ids.append(number)
            self._append(self._decoded(keep_incomplete=False))
        return self.reason != "length"

    def interrupt(self) -> None:
        """Ends the answer where it is, unless it has ended."""
        if self.reason == "length":
            self.reason = "interrupted"

    def finish(self) -> None:
        """Passes on what was held back."""
        if self.stop_text not in self._prompt.stops:
            self._append(self._decoded(keep_incomplete=True))
        self._send(len(self.text))

    def _stop(self, reason: StopReason, number: int | None, text: str | None = None) -> None:
        self.reason, self.stop_id, self.stop_text = reason, number, text

    def _decoded(self, *, keep_incomplete: bool) -> str:
        """The text of the tokens since the last call, decoded after those before: pieces depend on what they follow."""
        ids = self._shown_ids
        before, after = self._decode(ids[self._window : self._read]), self._decode(ids[self._window :])
        if after.endswith(_INCOMPLETE) and not keep_incomplete:
            return ""
        if len(after) > len(before):
            self._window, self._read = self._read, len(ids)
        return after[len(before) :]

    def _append(self, part: str) -> None:
        if not part:
            return
        stops = self._prompt.stops
        start = max(0, len(self.text) - max(map(len, stops), default=0) + 1)
        self.text += part
        found = [(at, stop) for stop in stops if (at := self.text.find(stop, start)) >= 0]
        if found:
            at, stop = min(found, key=lambda each: each[0])
            self.text = self.text[:at]
            self._stop("stop", None, stop)
        self._send(len(self.text) - (0 if found else self._begun()))

    def _begun(self) -> int:
        """The length of the longest end of the text with which a stop text begins."""
        longest = max(map(len, self._prompt.stops), default=1) - 1
        sizes = range(min(longest, len(self.text)), 0, -1)
        return next((size for size in sizes if any(s.startswith(self.text[-size:]) for s in self._prompt.stops)), 0)

    def _send(self, end: int) -> None:
        if end > self._sent:
            self._on_text(self.text[self._sent : end])
            self._sent = end
