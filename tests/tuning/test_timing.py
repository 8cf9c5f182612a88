"""The seconds of a plan: from measured costs by hand, and measured here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import aprnb
from aprnb.architecture import expected_tensors, parameter_count
from aprnb.tuning.planning.recipe_reader import read_options
from aprnb.tuning.planning.seconds import SecondsPlan
from aprnb.tuning.preparation import Preparation, prepare, resumed
from aprnb.tuning.timing import estimate, speed
from aprnb.tuning.timing.rates import Rates
from aprnb.tuning.timing.speed import Costs, PassCost

POCKET = Path(__file__).parents[2] / "notebooks" / "pocket-qwen3.apr"
ROWS = [{"instruction": f"What is {number}?", "response": f"It is {number}."} for number in range(20)]
OPTIONS = {"data": ROWS, "val_split": 0.2, "batch_size": 4, "epochs": 2, "device": "cpu", "method": "lora"}


@pytest.fixture(scope="module")
def prepared() -> Preparation:
    return prepare(POCKET, *read_options(dict(OPTIONS)))


def test_each_phase_is_made_of_its_parts(prepared: Preparation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of different magnitudes, so that each part is a digit group of its own."""
    train, forward = (PassCost(fixed=0.0, layer=cost, position=0.0, tokens=1) for cost in (1.0, 0.0))
    costs = Costs(train, forward, build=1e3, optimize=1e6, read=1e9)
    rates = Rates({"F32": 0.0, "BF16": 0.0, "F16": 0.0}, dict.fromkeys(("F32", "F16", "BF16"), 0.0), 0.0, 1.0)
    monkeypatch.setattr(estimate, "measure", lambda *_: costs)
    monkeypatch.setattr(estimate, "measure_rates", lambda *_: rates)
    for name in ("_STARTING_S", "_SAVING_S", "_FINISHING_S", "_TOKEN_S"):
        monkeypatch.setattr(estimate, name, 0.0)
    plan = estimate.with_seconds(prepared, lambda _: None).plan
    found, forecast = plan.seconds, plan.forecast
    assert found and forecast
    tokens, layers, steps = prepared.examples.tokens, prepared.report.architecture.num_hidden_layers, 2 * 16 // 4
    # Every row twice, each layer once for each token; one update per step.
    assert found.steps == 2 * tokens * layers + 1e6 * steps
    # Eight evaluations (one per step, as ten are more than there are), each followed by a state of 12 bytes a weight.
    state = 12 * plan.parameters_trainable
    assert found.saves == steps * state
    assert found.evaluations == 0.0
    assert found.load == 1e3 + 1e9
    written = plan.writes[str(Path(f"{POCKET.stem}-finetuned.apr"))]
    assert found.merge == written
    # The base and the written model are built, the frozen weights are read once more.
    assert found.check == 2 * 1e3 + 1e9
    assert forecast.step == found.steps / steps
    assert forecast.save == state
    assert forecast.results == found.merge + found.check
    assert forecast.evaluated == forecast.saved == frozenset(range(1, steps + 1))


def test_evaluations_are_passes_over_the_held_out_rows(prepared: Preparation, monkeypatch: pytest.MonkeyPatch) -> None:
    train, forward = PassCost(0.0, 0.0, 0.0, 1), PassCost(fixed=0.0, layer=2.0, position=1e-3, tokens=1)
    monkeypatch.setattr(estimate, "measure", lambda *_: Costs(train, forward, 0.0, 0.0, 0.0))
    found = estimate.with_seconds(prepared, lambda _: None).plan.seconds
    held_out, layers = prepared.held_out, prepared.report.architecture.num_hidden_layers
    assert found
    assert held_out
    # After each of the 8 steps, and once at the start.
    once = 2 * layers * held_out.tokens + 1e-3 * held_out.labelled_tokens
    assert found.evaluations == pytest.approx(8 * once)
    assert found.load > once


def test_weights_are_counted_by_their_dtypes(prepared: Preparation, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = PassCost(0.0, 0.0, 0.0, 1)
    monkeypatch.setattr(estimate, "measure", lambda *_: Costs(nothing, nothing, 0.0, 0.0, 0.0))
    stored = {entry.dtype.name for entry in prepared.checkpoint.tensors.values() if entry.size_bytes}
    decode = dict.fromkeys(("F32", "F16", "BF16"), 1.0)
    rates = Rates(decode, dict.fromkeys(decode, 0.001), 1e-6, float("inf"))
    monkeypatch.setattr(estimate, "measure_rates", lambda *_: rates)
    for name in ("_STARTING_S", "_SAVING_S", "_FINISHING_S", "_TOKEN_S"):
        monkeypatch.setattr(estimate, name, 0.0)
    found = estimate.with_seconds(prepared, lambda _: None).plan.seconds
    assert found
    weights = parameter_count(prepared.report.architecture)
    assert stored <= set(decode)
    assert found.load == weights
    assert found.merge == pytest.approx(weights * (1 + 1e-3))
    assert found.check == pytest.approx(weights * (2 + 2 + 1e-6))


def test_a_layer_is_the_difference_of_two_and_one(prepared: Preparation, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of 40 layers and a vocabulary twice as large as the measured one; a clock that counts work."""

    class Counted:
        build_s, optimized, looked = 5.0, 7.0, 11.0

        def __init__(self, architecture: aprnb.Architecture, *_: object) -> None:
            self.layers, self.rows = architecture.num_hidden_layers, architecture.vocab_size
            self.parameters = self.trainable = 1000 * self.layers
            self.build_s = 5.0 + self.layers

        def pass_s(self, tokens: int, labelled: int, grad: bool) -> float:
            factor = 3.0 if grad else 1.0
            return factor * (2.0 + tokens * self.layers * 1e-3 + labelled * self.rows * 1e-6)

        def optimize_s(self) -> float:
            return 7.0 * self.layers

        def read_s(self) -> float:
            return 11.0 * self.layers

    rows = max(1024, speed._VOCABULARY // 64)
    large = replace(
        prepared.report.architecture, num_hidden_layers=40, hidden_size=64, vocab_size=2 * rows, intermediate_size=4096
    )
    assert parameter_count(large) > speed._WHOLE
    monkeypatch.setattr(speed, "_Layers", Counted)
    monkeypatch.setattr(speed, "_PASS_S", 1e9)
    found = speed._measure(large, prepared.recipe, prepared.placement, 400, 30)
    assert found.train.layer == pytest.approx(3 * 400e-3)
    assert found.train.position == pytest.approx(3 * 2 * rows * 1e-6)
    assert found.train.fixed == pytest.approx(3 * 2.0)
    # 200 tokens of which 100 are labelled, through 40 layers.
    by_hand = (2.0 + 400 * 40 * 1e-3) / 2 + 100 * 2 * rows * 1e-6
    assert found.forward.seconds(40, 200, 100) == pytest.approx(by_hand)
    assert found.build == 6.0 + 39


def test_a_measured_plan_has_all_phases_and_leaves_the_random_state(tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    plan = aprnb.plan(POCKET, **OPTIONS, output=tmp_path / "tuned.apr")
    assert torch.equal(torch.get_rng_state(), before)
    assert plan.seconds and all(value > 0 for value in vars(plan.seconds).values())
    assert str(plan).splitlines()[0].startswith("Plan: ≈ ")
    assert not list(tmp_path.iterdir())
    assert aprnb.plan(POCKET, **OPTIONS, adapter_only=True).seconds.merge == 0


def test_a_resumed_run_counts_what_is_left(prepared: Preparation) -> None:
    whole = SecondsPlan(load=3.0, steps=80.0, evaluations=40.0, saves=8.0, merge=5.0, check=7.0)
    found = resumed(replace(prepared, plan=replace(prepared.plan, seconds=whole)), 6).plan.seconds
    assert prepared.plan.total_steps == 8
    assert found == SecondsPlan(load=3.0, steps=20.0, evaluations=10.0, saves=2.0, merge=5.0, check=7.0)


def test_measured_layers_have_the_shapes_of_the_model(prepared: Preparation) -> None:
    cut = speed._cut(prepared.report.architecture, 1, 1024)
    whole = {name: tensor.shape for name, tensor in expected_tensors(prepared.report.architecture).items()}
    layers = {name: tensor.shape for name, tensor in expected_tensors(cut).items() if ".layers.0." in name}
    assert layers
    assert layers.items() <= whole.items()
