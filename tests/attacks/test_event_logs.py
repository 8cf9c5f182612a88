"""A run's folder is untrusted input for whoever looks at the run: plan, events and lock of any content."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzz_runs import finished_run
from odd_files import (
    dangling_link,
    device,
    folder_,
    link_to_a_device,
    link_to_itself,
    pipe,
    sparse_file,
)
from registry import way

import aprnb
from aprnb.display.html import to_html
from aprnb.errors import AprnbError, CheckpointError, FileMissing, UsageProblem
from aprnb.tuning.results.history import History
from aprnb.tuning.results.run import Run
from aprnb.tuning.training.events import StepEvent, from_record, to_record

pytestmark = pytest.mark.usefixtures("nothing_waits")

STEP = to_record(StepEvent(1, 4, 2.5, 1e-4, 0.75, 512, 128, 900.0, 0.5, 1 << 30, 1.5), 1.0)
EVAL = {"event": "eval", "time": 1.0, "step": 1, "eval_loss": 2.25}
START = {"event": "start", "time": 1.0, "schema": 1, "base": "base.apr", "resumed_from": None}
HUGE = 10**40
NO_NUMBER: list[Any] = [None, True, "text", "1", [], {}, HUGE, -HUGE, 10**4000, math.nan, math.inf, -math.inf]
NO_COUNT: list[Any] = [*NO_NUMBER, -1, 1.5]
NO_TIME: list[Any] = [*NO_NUMBER, -0.5]
NO_TEXT: list[Any] = [None, True, 1, [], {}, "x" * 100_000]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    finished_run(folder)
    return folder / "run"


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """The folder of a run, out.run."""
    return shutil.copytree(finished, tmp_path / "out.run")


def with_events(folder: Path, *records: Any) -> Run:
    """The run whose log has these records, or these texts as lines."""
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    (folder / "events.jsonl").write_text("".join(f"{line}\n" for line in lines), "utf-8", "surrogatepass")
    return aprnb.open_run(folder)


def shown(run: Run) -> tuple[dict[str, Any], str, str]:
    """The run as JSON, text and HTML."""
    document = run.to_json()
    json.dumps(document, allow_nan=False)
    html = to_html(run.document())
    assert "<script" not in html
    assert "\x1b" not in str(run) + html
    return document, str(run), html


def test_the_log_as_it_was_written_is_read(folder: Path) -> None:
    run = aprnb.open_run(folder)
    assert run.status == "finished"
    assert list(run.metrics["step"]) == [1, 2]
    assert list(run.evaluations["step"]) == [0, 1, 2]
    document, text, _ = shown(run)
    assert (document["steps"], document["merge_check"]["positions"]) == (2, 12)
    assert "2 of 2" in text


FIELDS: dict[str, list[Any]] = {
    "step": NO_COUNT,
    "total_steps": NO_COUNT,
    "loss": [*NO_NUMBER, "<script>", "$\\frac{1}{"],
    "learning_rate": NO_NUMBER,
    "grad_norm": NO_NUMBER,
    "tokens": NO_COUNT,
    "labelled_tokens": NO_COUNT,
    "tokens_per_s": [*NO_TIME, 0, 0.0],
    "elapsed_s": NO_TIME,
    "memory_bytes": NO_COUNT,
    "remaining_s": [value for value in NO_TIME if value is not None],
}
"""Field of a step → values that are not possible there."""
WRONG = [(name, value) for name, values in FIELDS.items() for value in values]
ROWS = (
    *((STEP, name, value) for name, value in WRONG),
    *((EVAL, "step", value) for value in NO_COUNT),
    *((EVAL, "eval_loss", value) for value in NO_NUMBER),
)


@way("a run's log with other types, huge numbers or NaN")
@pytest.mark.parametrize(("record", "name", "value"), ROWS, ids=lambda part: ascii(part)[:30])
def test_a_line_with_a_value_that_no_run_has_is_left_out(record: dict[str, Any], name: str, value: Any) -> None:
    history = History()
    assert from_record(record | {name: value}) is None
    history.take(record | {name: value})
    assert (history.steps, history.evaluations) == ([], [])
    history.take({key: one for key, one in record.items() if key != name})
    assert (history.steps, history.evaluations) == ([], [])
    history.take(record)
    assert len(history.steps + history.evaluations) == 1


def test_lines_with_impossible_values_leave_the_others(folder: Path) -> None:
    """`json.dumps` writes NaN and infinity as such, and numbers of 4,000 digits."""
    wrong = [record | {name: value} for record, name, value in ROWS]
    document, text, _ = shown(with_events(folder, START, *wrong, STEP, EVAL, STEP | {"step": 2, "loss": 2.0}))
    assert (document["steps"], document["loss"]) == (2, {"first": 2.5, "last": 2.0})
    assert document["tokens"] == 1024
    assert "2.5000 → 2.0000" in text


OTHERS: list[dict[str, Any]] = [
    *({"event": "notice", "kind": kind, "text": "x"} for kind in [*NO_TEXT, "", "warn", "<b>"]),
    *({"event": "notice", "kind": "warning", "text": text} for text in NO_TEXT),
    *({"event": "phase", "name": name, "done": 1, "total": 2} for name in NO_TEXT),
    *({"event": "phase", "name": "x", "done": done, "total": 2} for done in NO_COUNT if done is not None),
    *({"event": "saved", "step": step, "path": "x"} for step in NO_COUNT),
    *({"event": "saved", "step": 1, "path": path} for path in NO_TEXT),
    *({"event": "finished", "step": 1, "status": status} for status in [*NO_TEXT, "", "done", "', 'finished"]),
    *({"event": event} for event in [*NO_TEXT, "", "step", "eval", "planned", "start ", "Start"]),
]  # fmt: skip


@pytest.mark.parametrize("record", OTHERS, ids=lambda record: ascii(record)[:60])
def test_another_event_with_a_value_that_no_run_has_is_left_out(record: dict[str, Any]) -> None:
    assert from_record(record) is None


ENDS: list[dict[str, Any]] = [
    *({"status": status} for status in [*NO_NUMBER, "running", "killed", "<script>", "x" * 100_000]),
    *({"status": "finished", "output": output} for output in [*NO_NUMBER, "/etc/passwd"]),
    *({"status": "finished", "adapter": adapter} for adapter in [*NO_NUMBER, "../other"]),
    *({"status": "finished", "merge_check": check} for check in [*NO_NUMBER, {"logit_range": "<script>"}]),
    *(
        {"status": "finished", "output": True, "merge_check": {"max_abs_difference": value, "logit_range": value}}
        for value in NO_NUMBER
    ),
    *({"status": "finished", "peak_memory_bytes": peak} for peak in NO_COUNT),
    *({"status": "failed", "error": error} for error in NO_NUMBER),
    *({"status": "failed", "error": {"message": message, "kind": message}} for message in NO_NUMBER),
    {"status": "failed", "error": {"message": "<script>alert(1)</script>\x1b[2J\ud800" + "x" * 500_000}},
]  # fmt: skip


@way("a run's log whose last line is not a result")
@pytest.mark.parametrize("end", ENDS, ids=lambda end: ascii(end)[:60])
def test_an_end_of_any_content_can_be_shown(folder: Path, end: dict[str, Any]) -> None:
    run = with_events(folder, START, {"event": "end", "time": 1.0, **end})
    document, text, html = shown(run)
    assert document["status"] == run.status
    assert len(text) < 20_000
    assert len(html) < 200_000
    assert run.output in (None, folder.with_suffix(".apr"))
    assert run.adapter in (None, folder.with_suffix(".adapter"))


STARTS: list[dict[str, Any]] = [
    *({name: value} for name in ("base", "resumed_from", "total_steps", "machine") for value in NO_NUMBER),
    {"base": "x\0y"}, {"base": "\ud800"}, {"base": "<script>" * 1000}, {"schema": 99}, {"schema": None},
]  # fmt: skip


@pytest.mark.parametrize("start", STARTS, ids=lambda start: ascii(start)[:60])
def test_a_start_of_any_content_can_be_shown(folder: Path, start: dict[str, Any]) -> None:
    run = with_events(folder, START | start, EVAL)
    assert shown(run)[0]["eval_loss"]["first"] == 2.25
    str(run.base)


@way("markup and control characters in a run's log")
def test_markup_and_control_characters_are_shown_as_text(folder: Path) -> None:
    bad = "<script>alert(1)</script>\x1b]0;x\x07\u202e\ud800"
    notices = [{"event": "notice", "kind": "warning", "text": f"{bad}{number}"} for number in range(3)]
    _, text, html = shown(with_events(folder, START, *notices, STEP))
    assert "⟨U+001B⟩" in text
    assert "&lt;script&gt;" in html


def test_ten_thousand_warnings_are_shown_as_the_last_hundred(folder: Path) -> None:
    notices = [{"event": "notice", "kind": "warning", "text": f"warning {number}"} for number in range(10_000)]
    run = with_events(folder, START, *notices)
    assert run.history.warnings == [f"warning {number}" for number in range(9_900, 10_000)]


LINES: dict[str, str] = {
    "empty": "",
    "blanks": "   ",
    "NUL": "\0" * 100,
    "not JSON": "{",
    "a number": "1",
    "null": "null",
    "a list": "[1, 2]",
    "nested deeply": "[" * 100_000,
    "objects nested deeply": '{"event":' * 100_000,
    "a number of 10,000 digits": json.dumps(STEP).replace("2.5", "9" * 10_000),
    "a number beyond every float": json.dumps(STEP).replace("2.5", "1e999"),
    "NaN": json.dumps(STEP).replace("2.5", "NaN"),
    "a key twice": '{"event": "step", "event": "comet"}',
    "two records": json.dumps(STEP) * 2,
    "a line of two megabytes": json.dumps({"event": "notice", "kind": "info", "text": "x" * (2 << 20)}),
    "a line of ten megabytes": "x" * (10 << 20),
    "half of a surrogate pair": '{"event": "\ud800"}',
}


@way("a run's log with damaged, giant or torn lines")
@pytest.mark.parametrize("name", LINES)
def test_a_damaged_line_leaves_the_others(folder: Path, name: str) -> None:
    run = with_events(folder, START, STEP, LINES[name], STEP | {"step": 2})
    assert [row["step"] for row in run.history.steps] == [1, 2]


def test_a_line_without_end_is_not_read_again_and_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = with_events(folder, START, STEP)
    assert len(run.history.steps) == 1
    with (folder / "events.jsonl").open("ab") as file:
        file.write(b"x" * (32 << 20))
    assert len(run.history.steps) == 1
    started = time.process_time()
    for _ in range(100):
        assert len(run.history.steps) == 1
    # Less than four megabytes are left to look at; 32 of them a hundred times take more than a second.
    assert time.process_time() - started < 0.5
    with (folder / "events.jsonl").open("ab") as file:
        file.write(b"\n" + json.dumps(STEP | {"step": 2}).encode() + b"\n")
    assert len(run.history.steps) == 2


def parsing_s(lines: list[str]) -> float:
    """Processor seconds that Python's own parser takes for the lines."""
    started = time.process_time()
    for line in lines:
        with contextlib.suppress(ValueError):
            json.loads(line)
    return time.process_time() - started


@way("a run's log of millions of lines")
@pytest.mark.parametrize(
    "line", ["{}", '{"event":"x"}', "null", "x", json.dumps(EVAL), json.dumps(STEP)], ids=lambda line: line[:14]
)
def test_many_lines_are_read_in_time_in_proportion(folder: Path, line: str) -> None:
    """20 MB, or a million lines: a second on a free core, of which Python's parser alone takes a third to all."""
    lines = [line] * min(1_000_000, (20 << 20) // (len(line) + 1))
    (folder / "events.jsonl").write_text("".join(f"{one}\n" for one in lines))
    run = aprnb.open_run(folder)
    started = time.process_time()
    found = run.history
    took = time.process_time() - started
    assert took < 0.5 + 6 * parsing_s(lines)
    assert len(found.steps) + len(found.evaluations) <= 1, "the same step each time"


def test_a_step_that_comes_again_replaces_what_was_done_from_there_on(folder: Path) -> None:
    steps = [STEP | {"step": number, "loss": float(number)} for number in (1, 2, 3, 4)]
    run = with_events(folder, START, *steps, STEP | {"step": 3, "loss": 9.0})
    assert [(row["step"], row["loss"]) for row in run.history.steps] == [(1, 1.0), (2, 2.0), (3, 9.0)]


def test_a_log_that_another_run_began_is_read_from_its_start(folder: Path) -> None:
    run = with_events(folder, START, STEP, STEP | {"step": 2}, EVAL)
    assert len(run.history.steps) == 2
    (folder / "events.jsonl").unlink()
    with_events(folder, START, STEP | {"loss": 7.0})
    assert [row["loss"] for row in run.history.steps] == [7.0]
    assert run.history.evaluations == []


def test_a_longer_log_in_the_same_place_on_the_disk_is_read_from_its_start(folder: Path) -> None:
    run = with_events(folder, START, STEP, STEP | {"step": 2}, {"event": "saved", "step": 2, "path": "x"})
    assert len(run.history.steps) == 2
    with (folder / "events.jsonl").open("r+") as file:  # the inode stays, as where a file system gives it out again
        later = START | {"time": START["time"] + 60}
        file.write("".join(f"{json.dumps(line)}\n" for line in (later, *(STEP | {"step": n} for n in (1, 2, 3, 4, 5)))))
        file.truncate()
    assert [row["step"] for row in run.history.steps] == [1, 2, 3, 4, 5]
    assert run.history.start == later
    assert run.history.saved is None, "of the run before"


# Files that are none


KINDS: list[Callable[[Path], None]] = [
    pipe, device, folder_, link_to_itself, link_to_a_device, dangling_link, sparse_file,
]  # fmt: skip


def link_out(path: Path) -> None:
    """A link to a log outside the folder."""
    other = path.parent.parent / "other.jsonl"
    other.write_text(json.dumps({"event": "notice", "kind": "warning", "text": "secret"}) + "\n")
    path.symlink_to(other)


@way("pipes, devices, links and sparse files in the place of a run's plan, log or lock")
@pytest.mark.parametrize("make", [*KINDS, link_out])
@pytest.mark.parametrize("name", ["plan.json", "events.jsonl"])
def test_only_regular_files_of_the_folder_are_read(folder: Path, make: Callable[[Path], None], name: str) -> None:
    (folder / name).unlink()
    make(folder / name)
    try:
        run = aprnb.open_run(folder)
        assert run.history.steps == []
        assert "secret" not in str(run)
    except AprnbError as error:
        assert name in str(error) or "is not the folder of a run" in str(error)
        assert "secret" not in str(error)
    else:
        assert name == "events.jsonl"


@pytest.mark.parametrize("make", [*KINDS, link_out])
def test_a_lock_of_any_kind_can_be_asked(folder: Path, make: Callable[[Path], None]) -> None:
    make(folder / "lock")
    (folder / "events.jsonl").write_text(json.dumps(START) + "\n")
    assert aprnb.open_run(folder).status == "killed"


PLANS: dict[str, bytes] = {
    "empty": b"", "zeros": bytes(1 << 20), "a list": b"[]", "an object": b"{}", "nested deeply": b"[" * 200_000,
    "not UTF-8": b'{"base": "\xff"}', "NaN": b'{"steps": NaN}',
}  # fmt: skip


@way("a run without a plan, or with a damaged one")
@pytest.mark.parametrize("name", PLANS)
def test_a_damaged_plan_is_one_error_that_names_it(folder: Path, name: str) -> None:
    (folder / "plan.json").write_bytes(PLANS[name])
    with pytest.raises(CheckpointError, match=r"plan\.json"):
        aprnb.open_run(folder)


def plan_values(node: Any, where: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The keys that lead to each value of the plan that is no object."""
    if not isinstance(node, dict):
        return [where]
    return [found for key, inner in node.items() for found in plan_values(inner, (*where, key))]


def test_a_plan_with_any_value_of_another_type_is_shown_or_named(folder: Path) -> None:
    stored = json.loads((folder / "plan.json").read_text())
    for where in plan_values(stored):
        for value in (None, True, "<script>", [], {}, HUGE, -1, 1.5):
            document = json.loads(json.dumps(stored))
            inner = document
            for key in where[:-1]:
                inner = inner[key]
            inner[where[-1]] = value
            (folder / "plan.json").write_text(json.dumps(document))
            try:
                assert "<script>" not in to_html(aprnb.open_run(folder).plan.document())
            except CheckpointError as error:
                assert "plan.json" in str(error)


def test_a_folder_without_a_plan_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "plan.json").unlink()
    with pytest.raises(FileMissing, match=r"out\.run is not the folder of a run"):
        aprnb.open_run(folder)
    with pytest.raises(FileMissing, match=r"none\.run is not the folder of a run"):
        aprnb.open_run(tmp_path / "none.run")
    with pytest.raises(UsageProblem, match=r"ends in \.run"):
        aprnb.open_run(tmp_path)


def test_a_run_in_a_folder_that_cannot_be_written_is_read(folder: Path) -> None:
    folder.chmod(0o555)
    try:
        before = folder.stat().st_mtime_ns
        assert aprnb.open_run(folder).status == "finished"
        assert folder.stat().st_mtime_ns == before
    finally:
        folder.chmod(0o755)
