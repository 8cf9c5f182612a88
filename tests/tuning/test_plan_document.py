"""The card of a stored plan: the same as the live one, and an error that names the key where the file is damaged."""

from __future__ import annotations

import copy
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import aprnb
from aprnb.errors import AprnbError, CheckpointError, FileMissing
from aprnb.terminal_views import Progress
from aprnb.tuning.planning.plan import Plan
from aprnb.tuning.planning.plan_document import plan_document, read_plan
from aprnb.tuning.training.events import Planned


@pytest.fixture(scope="module")
def plan(repository: Path, pocket_qwen3: Path) -> Plan:
    rows = repository / "notebooks" / "ask-the-cow.jsonl"
    given = {"model": pocket_qwen3, "data": rows, "target_modules": ("q_proj", "v_proj"), "max_steps": 2}
    return aprnb.plan(**given, overrides={"rope_theta": 1e6}, device="cpu")


@pytest.fixture
def stored(plan: Plan) -> dict[str, Any]:
    """The document as `plan.json` holds it."""
    return json.loads(json.dumps(plan.to_json()))


def test_a_stored_plan_shows_the_card_of_the_live_one(plan: Plan, stored: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(stored))
    saved = read_plan(path)
    assert str(saved) == str(plan)
    assert saved.to_html() == plan.to_html()
    assert saved.to_json() == stored


@pytest.mark.parametrize(("is_terminal", "verbose"), [(True, False), (True, True), (False, False)])
def test_a_terminal_shows_what_fits_on_a_screen_and_where_the_rest_is(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, is_terminal: bool, verbose: bool
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    progress = Progress(every_step=verbose)
    progress(Planned(plan, Path("a folder/x.run")))
    progress.line.clear()
    shown = stream.getvalue()
    if verbose or not is_terminal:
        assert str(plan) in shown
        return
    assert len(shown.splitlines()) <= 30  # 19 facts, two warnings, title, empty lines
    assert shown.splitlines()[0] == str(plan).splitlines()[0]
    for warning in plan.warnings:
        assert f"warning: {warning}" in " ".join(shown.split())
    for name in ("learning rate", "rows", "time", "writes"):
        assert f"\n{name} " in shown
    assert "Memory at the peak" not in shown
    assert "recipe, assumptions: aprnb inspect 'a folder/x.run', or --verbose" in shown


def places(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every value that the card reads by its type; options and fields of the model are shown as text."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield (*path, key)
        if key not in ("overrides", "recipe", "architecture"):
            yield from places(inner, (*path, key))


ODD = [
    None,
    "",
    "x",
    -1,
    0,
    1.5,
    float("nan"),
    float("inf"),
    10**400,
    True,
    [],
    [1],
    ["x"],
    {},
    {"value": {}},
    "\x1b]0;",
]


def test_every_damage_is_shown_or_an_error_that_names_the_key(stored: dict[str, Any]) -> None:
    known = [*places(stored), ("recipe", "rank"), ("recipe", "alpha"), ("architecture", "hidden_size", "value")]
    for path in known:
        for odd in ODD:
            damaged = copy.deepcopy(stored)
            _inner(damaged, path)[path[-1]] = odd
            _shown_or_named(damaged, path)
        missing = copy.deepcopy(stored)
        del _inner(missing, path)[path[-1]]
        _shown_or_named(missing, path)


def _inner(document: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for key in path[:-1]:
        document = document[key]
    return document


def _shown_or_named(document: dict[str, Any], path: tuple[str, ...]) -> None:
    try:
        plan_document(document, "x.run/plan.json")
    except AprnbError as error:
        assert isinstance(error, CheckpointError)
        assert "x.run/plan.json" in error.found
        assert path[0] in error.found


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("steps", "many", "steps is text; expected an integer, at least 0"),
        ("steps", 10**30, "steps is 1000000000000000000000000000000"),
        ("memory_bytes", [1], "memory_bytes is a list; expected an object"),
        ("recipe", {}, "has no recipe.gradient_checkpointing"),
        ("warnings", [1], "warnings is a list; expected a list of texts"),
        ("parameters", {"total": 0, "trainable": 0}, "parameters.total is 0; expected an integer, at least 1"),
    ],
)
def test_an_error_says_what_was_found_and_expected(
    stored: dict[str, Any], tmp_path: Path, key: str, value: Any, words: str
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**stored, key: value}))
    with pytest.raises(CheckpointError) as caught:
        read_plan(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_plan_that_is_missing_or_not_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileMissing):
        read_plan(tmp_path / "plan.json")
    (tmp_path / "plan.json").write_text('{"steps": ')
    with pytest.raises(CheckpointError, match="plan.json"):
        read_plan(tmp_path / "plan.json")
