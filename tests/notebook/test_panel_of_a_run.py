"""The panel over a run's folder: what is left in the notebook, and how large it is."""

from __future__ import annotations

import json
from math import exp
from pathlib import Path
from typing import Any

import pytest
from IPython.utils.capture import capture_output

import aprnb
from aprnb.notebook.panel import Panel
from aprnb.notebook.screen import Screen
from aprnb.tuning.results.run import Run

STEPS = 10_000
MOST_BYTES = 150_000


@pytest.fixture
def long_run(tmp_path: Path, pocket_qwen3: Path, repository: Path) -> Run:
    """A finished run of ten thousand noisy steps and a hundred evaluations, as its folder would hold it."""
    folder = tmp_path / "long.run"
    folder.mkdir()
    plan = aprnb.plan(pocket_qwen3, data=repository / "notebooks" / "ask-the-cow.jsonl", max_steps=STEPS)
    (folder / "plan.json").write_text(json.dumps(plan.to_json()))
    records = [{"event": "start", "schema": 1, "resumed_from": None}, *events(), {"event": "end", "status": "finished"}]
    (folder / "events.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return aprnb.open_run(folder)


def events() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"event": "eval", "step": 0, "eval_loss": 4.5}]
    for step in range(1, STEPS + 1):
        noise = (step * 7919 % 1009) / 1009
        found.append(
            {"event": "step", "step": step, "total_steps": STEPS, "loss": 4 * exp(-step / 2000) + noise,
             "learning_rate": 1e-4 * (1 - step / STEPS), "grad_norm": 1 + noise, "tokens": 80, "labelled_tokens": 20,
             "tokens_per_s": 1000.0 + noise, "elapsed_s": 0.08 * step, "memory_bytes": 2**30, "remaining_s": None}
        )  # fmt: skip
        if step % 100 == 0:
            found.append({"event": "eval", "step": step, "eval_loss": 0.5 + 4 * exp(-step / 2000)})
    return found


@pytest.mark.parametrize("is_live", [False, True])
def test_the_whole_output_of_ten_thousand_steps_is_small(
    shell: Any, long_run: Run, monkeypatch: pytest.MonkeyPatch, is_live: bool
) -> None:
    monkeypatch.setattr(Screen, "is_live", is_live)
    screen = Screen(shell)
    with capture_output() as captured, Panel(screen, is_asked=True) as panel:
        long_run.follow(panel)
        panel.finish(long_run)
    left = {(output.transient or {}).get("display_id", n): output.data for n, output in enumerate(captured.outputs)}
    assert sum(len(content) for data in left.values() for content in data.values()) < MOST_BYTES
    kinds = [kind for data in left.values() for kind, content in data.items() if content]
    assert "image/png" in kinds
    html = "".join(data.get("text/html", "") for data in left.values())
    for words in ("Run finished", "Steps: 10,000 rows", "The whole plan" if not is_live else ">Plan, with warnings<"):
        assert words in html
    assert "<script" not in html
    assert "<svg" not in html


def test_a_resumed_run_shows_the_steps_before_it(shell: Any, long_run: Run) -> None:
    from aprnb.tuning.training.events import Planned, from_record

    event = from_record({**events()[-2], "step": STEPS})
    assert event
    with capture_output(), Panel(Screen(shell)) as panel:
        panel(Planned(long_run.plan, long_run.where.run))
        panel(event)
        assert [panel.progress.steps[0]["step"], len(panel.progress.steps)] == [1, STEPS]
