"""Losses and weights that are not finite: the last good state stays, the error names it, and it can be resumed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from aprnb.errors import TrainingError
from aprnb.tuning.planning.saving import SaveRule
from aprnb.tuning.training.events import Saved, StepEvent
from aprnb.tuning.training.saving.state_files import load_state
from aprnb_tests.tiny import TinyRun, identity_of, losses, saver, tiny_run

EVERY_SECOND = SaveRule(2, None)


def spoiled(run: TinyRun, folder: Path, after: int) -> tuple[str, list[Any]]:
    """The error of a run whose frozen norm becomes NaN after a step, and the run's events."""
    seen: list[Any] = []
    with pytest.raises(TrainingError) as caught:
        for event in run.events(save=saver(folder)):
            seen.append(event)
            if isinstance(event, StepEvent) and event.step == after:
                run.model.get_base_model().model.norm.weight.data.fill_(math.nan)
    return str(caught.value), seen


def resumed(folder: Path, **options: Any) -> tuple[int, list[float]]:
    again = tiny_run(**options)
    state = load_state(folder, identity_of(again.recipe))
    return state.step, losses(list(again.events(state=state)))


def test_a_loss_that_is_not_finite_names_the_saved_state_which_resumes(tmp_path: Path) -> None:
    said, seen = spoiled(tiny_run(held_out=False), tmp_path, after=3)
    assert "step 4: loss nan" in said
    assert f"the state after step 3 is saved in {tmp_path / 'step-000003'}" in said
    assert isinstance(seen[-1], Saved)
    step, rest = resumed(tmp_path, held_out=False)
    assert (step, rest) == (3, losses(list(tiny_run(held_out=False).events()))[3:])


def test_a_held_out_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    said, _ = spoiled(tiny_run(eval_every=2), tmp_path, after=4)
    assert "the loss on the held-out rows after step 4 is nan" in said
    assert "the state after step 4 is saved" in said
    assert resumed(tmp_path, eval_every=2)[0] == 4


def test_weights_that_are_not_finite_never_replace_a_good_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = torch.optim.AdamW.step
    calls: list[None] = []

    def spoil(optimizer: Any, *given: Any, **named: Any) -> Any:
        calls.append(None)
        done = step(optimizer, *given, **named)
        if len(calls) == 3:
            optimizer.param_groups[0]["params"][0].data.fill_(math.inf)
        return done

    monkeypatch.setattr(torch.optim.AdamW, "step", spoil)
    with pytest.raises(TrainingError, match=r"step 4: loss nan(.|\n)*the state after step 2 is saved in"):
        list(tiny_run(eval_every=2).events(save=saver(tmp_path), saving=EVERY_SECOND))
    monkeypatch.undo()
    assert resumed(tmp_path, eval_every=2)[0] == 2


def test_an_optimizer_that_is_not_finite_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, calls = torch.optim.AdamW.step, []

    def spoil(optimizer: Any, *given: Any, **named: Any) -> Any:
        """Step 6 finds a second moment beyond float32, as after a huge gradient that nothing clipped."""
        calls.append(None)
        if len(calls) == 6:
            optimizer.state[optimizer.param_groups[0]["params"][0]]["exp_avg_sq"].fill_(math.inf)
        return step(optimizer, *given, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", spoil)
    with pytest.raises(TrainingError, match=r"NaN or infinity in optimizer/state/0/exp_avg_sq(.|\n)*no state is saved"):
        list(tiny_run(eval_every=6).events(save=saver(tmp_path), saving=SaveRule(None, None)))


def test_a_gradient_that_is_not_finite_changes_no_weight() -> None:
    run = tiny_run(held_out=False)
    weights = [one for one in run.model.parameters() if one.requires_grad]
    before = [one.detach().clone() for one in weights]
    weights[1].register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(TrainingError, match=r"step 1: loss \d.*, gradient norm (nan|inf)"):
        list(run.events())
    assert all(map(torch.equal, before, weights))
