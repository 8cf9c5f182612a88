"""Rows as the tokens that a run would train on, with what is learned marked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from aprnb.display.bundle import Displayed
from aprnb.display.document import Document, Kind, Paragraph, Tokens
from aprnb.errors import UsageProblem
from aprnb.phases import OnPhase, silent
from aprnb.tuning.data.example import Example
from aprnb.tuning.planning.model_size import require_named
from aprnb.tuning.planning.recipe_reader import read_options
from aprnb.tuning.preparation import prepare

MOST_TOKENS = 2_000
"""Tokens of a row that are shown."""
_BROKEN = "\ufffd"
_LONGEST_BROKEN = 8
"""Tokens that may make one character of several bytes between them."""


@dataclass(frozen=True)
class PreviewedRow:
    """The tokens of one row.

    Attributes:
        origin: the row's place in its source.
        ids: its tokens, [T].
        pieces: its text in parts, each with "context", "trained" or "end"; a character of several tokens is one part.
    """

    origin: str
    ids: tuple[int, ...]
    pieces: tuple[tuple[str, Kind], ...]


@dataclass(frozen=True)
class Preview(Displayed):
    """The first rows to train on, as tokens; `print(preview)` shows them, and so does the last expression of a cell.

    Attributes:
        rows: each `PreviewedRow`.
        total: number of rows to train on.
    """

    rows: tuple[PreviewedRow, ...]
    total: int

    def document(self) -> Document:
        """Each row's tokens: what is context, what is trained, and where an answer ends."""
        blocks: list[Paragraph | Tokens] = []
        for row in self.rows:
            trained = sum(kind != "context" for _, kind in row.pieces)
            blocks += [Paragraph(f"{row.origin}: {len(row.ids):,} tokens, {trained:,} trained"), Tokens(row.pieces)]
        return Document(f"{len(self.rows):,} of {self.total:,} rows as tokens", None, tuple(blocks))

    def to_json(self) -> dict[str, Any]:
        """The document of `aprnb finetune --preview N --json`."""
        rows = [
            {"origin": row.origin, "ids": list(row.ids), "pieces": list(map(list, row.pieces))} for row in self.rows
        ]
        return {"total": self.total, "rows": rows}


def preview(
    model: str | os.PathLike[str] | None = None, rows: int = 3, *, on_phase: OnPhase | None = None, **options: Any
) -> Preview:
    """Show the first rows as the tokens that `aprnb.finetune` would train on; no weight is loaded, nothing is written.

    Args:
        model: an `.apr`, GGUF or safetensors file, or a Hugging Face folder.
        rows: how many rows to show, at most 100.
        on_phase: called with a `Phase` before work that takes time.
        options: the arguments of `aprnb.plan`, `data` first of all.

    Returns:
        The `Preview`.

    Raises:
        AprnbError: what `aprnb.plan` raises.

    Example:
        >>> preview = aprnb.preview("pocket-qwen3.apr", 1, data="rows.jsonl")
        >>> preview.rows[0].pieces[-1]
        ('\\n', 'context')
    """
    if not 1 <= rows <= 100:
        raise UsageProblem(f"{rows} rows to show", expected="1 to 100")
    recipe, call = read_options(options)
    prepared = prepare(require_named(model, call.model_size), recipe, call, on_phase or silent)
    decode = prepared.choice.checkpoint_tokenizer.decode
    shown = [_previewed(example, decode) for example in prepared.examples.examples[:rows]]
    return Preview(tuple(shown), len(prepared.examples.examples))


def _previewed(example: Example, decode: Callable[[Sequence[int]], str]) -> PreviewedRow:
    ids = tuple(map(int, example.input_ids))
    return PreviewedRow(example.origin, ids, tuple(_pieces(example, ids[:MOST_TOKENS], decode)))


def _pieces(example: Example, ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> Iterator[tuple[str, Kind]]:
    """The text of each token, as it follows from those before it: some tokenizers drop a space at the beginning."""
    start = 0
    for at in range(len(ids)):
        before, text = decode(ids[max(0, start - 1) : start]), decode(ids[max(0, start - 1) : at + 1])
        if text.endswith(_BROKEN) and at + 1 < len(ids) and at - start < _LONGEST_BROKEN:
            continue
        trained = bool(example.labels_mask[at])
        yield text[len(before) :], "end" if at in example.ends else "trained" if trained else "context"
        start = at + 1
