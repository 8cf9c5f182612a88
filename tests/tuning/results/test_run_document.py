"""The badge of a run's card, which is the worst of what happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aprnb.display.bundle import Displayed
from aprnb.display.document import Document, Messages, Status
from aprnb.tuning.results.history import History
from aprnb.tuning.results.places import places_of
from aprnb.tuning.results.run_document import run_document

GUESSING = "the base model's loss on the answers is 9.120, guessing gives 6.931: the answers are new to it"


class SmallPlan(Displayed):
    def to_json(self) -> dict[str, Any]:
        return {"method": "lora", "steps": 3}

    def document(self) -> Document:
        return Document("Plan", "ok", ())


def card(status: str, *notices: tuple[str, str]) -> Document:
    history = History()
    history.take({"event": "start", "resumed_from": None})
    for kind, text in notices:
        history.take({"event": "notice", "kind": kind, "text": text})
    history.take({"event": "end", "status": status})
    plan: Any = SmallPlan()
    return run_document(places_of(Path("x.run")), status, history, plan)


@pytest.mark.parametrize(
    ("status", "notices", "badge"),
    [
        ("finished", [], "ok"),
        ("finished", [("info", "resuming after step 2 of 3")], "ok"),
        ("finished", [("warning", GUESSING)], "warning"),
        ("running", [("warning", GUESSING)], "warning"),
        ("running", [], None),
        ("interrupted", [], "warning"),
        ("failed", [("warning", GUESSING)], "failed"),
    ],
)
def test_the_badge_is_the_worst_of_what_happened(
    status: str, notices: list[tuple[str, str]], badge: Status | None
) -> None:
    assert card(status, *notices).status == badge


def test_the_reason_for_the_badge_is_the_first_thing_on_the_card() -> None:
    first = card("finished", ("warning", GUESSING)).blocks[0]
    assert first == Messages("warning", (GUESSING,))
