"""Target of the fuzzer: training rows in JSON Lines, read and split."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fuzz_case import NAMED_BY_A_PERSON, Case, become
from fuzz_documents import blind, changed_json, damaged
from fuzz_judges import text_of
from judges import WrongVerdict

from aprnb.tuning.data.row import Row
from aprnb.tuning.data.rows import RowSet, read_rows, split_rows

ROOT = Path(__file__).parents[2]
WORDS = (
    "instruction", "response", "input", "system", "messages", "role", "content", "user", "assistant", "tool_calls",
    "prompt", "completion", "output", "conversations", "from", "value", "human", "gpt", "weight", "train", "developer",
    "Instruction", " ", "\u3000", "\u2028",
)  # fmt: skip
CONVERSATIONS: tuple[dict[str, Any], ...] = (
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
    {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "你好"},
                  {"role": "assistant", "content": "🎉"}, {"role": "user", "content": ""},
                  {"role": "assistant", "content": "x", "name": "y"}], "id": 7},
    {"instruction": "a", "response": "b", "system": None, "input": "c", "source": [1, 2]},
    {"instruction": "a", "output": "b", "input": ""},
    {"prompt": "a", "completion": [{"role": "assistant", "content": [{"type": "text", "text": "b"}], "weight": 1}]},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "train": False}], "system": "s"},
)  # fmt: skip


class Rows:
    """Rows of the shipped files, and of other forms."""

    planted: dict[str, bytes] = {}  # noqa: RUF012  read only

    def __init__(self, folder: Path) -> None:
        shipped = [*(ROOT / "notebooks").glob("*.jsonl")]
        self._lines = [line for path in sorted(shipped) for line in path.read_bytes().splitlines()[:20]]
        self._lines += [json.dumps(row, ensure_ascii=False).encode() for row in CONVERSATIONS] * 5

    def build(self, rng: random.Random, case: Case) -> None:
        lines = rng.choices(self._lines, k=rng.choice((1, 2, 5, 12)))
        for at in range(len(lines)):
            if rng.random() < 0.3:
                lines[at] = damaged(rng, lines[at], lambda rng, line: changed_json(rng, line, WORDS), aware=0.9)
        data = rng.choice((b"\n", b"\n", b"\n", b"\r\n", b"\n\n", b"\r")).join(lines)
        case.write({"rows.jsonl": blind(rng, data) if rng.random() < 0.1 else data})
        if rng.random() < 0.03:
            become(rng, case.folder / "rows.jsonl", case.outside, NAMED_BY_A_PERSON)

    def examine(self, rng: random.Random, case: Case) -> str:
        path = case.folder / "rows.jsonl"
        found = read_rows(path)
        hold_rows(found, path.read_bytes())
        share, seed = rng.choice((0.0, 0.1, 0.5, 0.9)), rng.randrange(3)
        hold_split(found.rows, share, *split_rows(found.rows, share, seed))
        case.hold_files()
        text = path.read_bytes().decode("utf-8-sig")
        if text.lstrip().startswith("{") and read_rows(text).rows != tuple(
            Row(row.messages, row.origin.replace("rows.jsonl", "cell")) for row in found.rows
        ):
            raise WrongVerdict("the same rows as text are others than those of the file")
        return "accepted"


def hold_rows(found: RowSet, data: bytes) -> None:
    """Raises WrongVerdict where rows are not those of the file, or hold what cannot be trained on."""
    if text_of(data).lstrip().startswith("["):  # an array: test_row_sources.py
        return
    if found.sha256 != hashlib.sha256(data).hexdigest():
        raise WrongVerdict("the hash is not that of the file")
    text = text_of(data).replace("\r\n", "\n").replace("\r", "\n")
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) != len(found.rows) or not lines:
        raise WrongVerdict(f"{len(found.rows)} rows from {len(lines)} lines")
    for row, line in zip(found.rows, lines, strict=True):
        turns = [(message.role, message.content) for message in row.messages]
        if turns != list(_turns(json.loads(line.removeprefix("\ufeff")))):
            raise WrongVerdict(f"{row.origin} is read as {turns}")
        for role, content in turns:
            if role not in ("system", "developer", "user", "assistant") or type(content) is not str:
                raise WrongVerdict(f"{row.origin} has {role!r} and {type(content).__name__}")
            content.encode("utf-8")
            if role == "assistant" and not content.strip():
                raise WrongVerdict(f"{row.origin} has an empty answer")
        if not any(content.strip() for _, content in turns):
            raise WrongVerdict(f"{row.origin} has no text")


def _turns(row: Any) -> Iterator[tuple[str, str]]:
    """The conversation as the documentation of the forms has it."""
    if row.get("messages") is not None:
        yield from map(_turn, row["messages"])
        return
    if (row.get("system") or "").strip():
        yield "system", row["system"]
    if row.get("conversations") is not None:
        yield from map(_turn, row["conversations"])
        return
    prompted = row.get("instruction") is None or (row.get("response") is None and row.get("output") is None)
    names = (
        ("prompt", "completion")
        if prompted
        else ("instruction", "output" if row.get("response") is None else "response")
    )
    for role, value in zip(("user", "assistant"), map(row.get, names), strict=True):
        more = (row.get("input") or "") if role == "user" and not prompted else ""
        yield from (
            map(_turn, value) if isinstance(value, list) else [(role, f"{value}\n\n{more}" if more.strip() else value)]
        )


def _turn(turn: Any) -> tuple[str, str]:
    if turn.get("role") is None and turn.get("from") is not None:
        return {"human": "user", "gpt": "assistant"}.get(turn["from"], turn["from"]), _joined(turn["value"])
    return turn["role"], _joined(turn["content"])


def _joined(content: Any) -> Any:
    return "".join(part["text"] for part in content) if isinstance(content, list) else content


def hold_split(rows: tuple[Row, ...], share: float, train: tuple[Row, ...], held_out: tuple[Row, ...]) -> None:
    """Raises WrongVerdict where a row is lost or twice, a conversation on both sides, or a side empty without need."""
    if sorted(row.origin for row in (*train, *held_out)) != sorted(row.origin for row in rows):
        raise WrongVerdict("the two parts are not the whole")
    if {row.key for row in train} & {row.key for row in held_out}:
        raise WrongVerdict("a conversation is trained on and held out")
    different = len({row.key for row in rows})
    if not train or bool(held_out) != (share > 0 and different > 1):
        raise WrongVerdict(f"{len(train)} rows to train on and {len(held_out)} held out of {different} different ones")
