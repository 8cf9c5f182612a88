"""The numbers of a run in each tracker, without a network; a tracker that fails takes nothing with it."""

from __future__ import annotations

import json
import sqlite3
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest

import aprnb
from aprnb.errors import UsageProblem

ROWS = [{"instruction": f"Spell {word}.", "response": " ".join(word)} for word in ("fish", "cow", "hen", "goat")]
QUICK: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 2,
    "val_split": 0.25,
    "adapter_only": True,
    "device": "cpu",
    "rank": 2,
}


@pytest.fixture
def run(pocket_qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "WANDB_MODE": "offline", "WANDB_SILENT": "true", "TRACKIO_DIR": str(tmp_path / "trackio"),
        "MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_TRACKING_URI": (tmp_path / "mlruns").as_uri(),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    return lambda **options: aprnb.finetune(pocket_qwen3, data=ROWS, output="x.apr", **{**QUICK, **options})


def read_tensorboard(folder: Path) -> dict[str, dict[int, float]]:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = loader.EventAccumulator(str(folder / "x.run" / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {name: {each.step: each.value for each in events.Scalars(name)} for name in events.Tags()["scalars"]}


def read_mlflow(folder: Path) -> dict[str, dict[int, float]]:
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient()
    [found] = client.search_runs([client.get_experiment_by_name("aprnb").experiment_id])
    assert found.data.params["rank"] == "2"
    names = found.data.metrics
    return {
        name: {each.step: each.value for each in client.get_metric_history(found.info.run_id, name)} for name in names
    }


def read_trackio(folder: Path) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    with sqlite3.connect(folder / "trackio" / "aprnb.db") as database:
        for step, text in database.execute("select step, metrics from metrics"):
            for name, value in json.loads(text).items():
                found.setdefault(name, {})[step] = value
    return found


def read_wandb(folder: Path) -> dict[str, dict[int, float]]:
    """From the log of an offline run: protobuf records in LevelDB's framing, after a header of 7 bytes."""
    records = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    found: dict[str, dict[int, float]] = {}
    end = time.monotonic() + 30
    while "train/loss" not in found and time.monotonic() < end:  # a process of wandb's own writes it
        found = read_records(records, next(folder.glob("wandb/offline-run-*/*.wandb")).read_bytes())
        time.sleep(0.2)
    return found


def read_records(records: Any, data: bytes) -> dict[str, dict[int, float]]:
    at, whole, found = 7, b"", {}
    while at + 7 <= len(data):
        if 0x8000 - at % 0x8000 < 7:  # the end of a block is filled up
            at += 0x8000 - at % 0x8000
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record, whole = records.Record.FromString(whole), b""
            for item in record.history.item:
                name = item.key or ".".join(item.nested_key)
                found.setdefault(name, {})[record.history.step.num] = float(item.value_json)
    return found


READERS = {"tensorboard": read_tensorboard, "mlflow": read_mlflow, "trackio": read_trackio, "wandb": read_wandb}


@pytest.mark.parametrize("tracker", READERS)
def test_a_tracker_has_the_numbers_of_the_run(tracker: str, run: Any, tmp_path: Path) -> None:
    pytest.importorskip(tracker)
    done = run(track=tracker)
    assert "takes no more numbers" not in " ".join(done.history.warnings)
    found = READERS[tracker](tmp_path)
    for row in done.history.steps:
        for name in ("loss", "learning_rate", "grad_norm"):
            assert found[f"train/{name}"][row["step"]] == pytest.approx(row[name], rel=1e-6)
    for row in done.history.evaluations:
        if row["step"] in found["eval/loss"]:
            assert found["eval/loss"][row["step"]] == pytest.approx(row["eval_loss"], rel=1e-6)
    assert set(found["eval/loss"]) >= {row["step"] for row in done.history.evaluations[1:]}
    assert run(track=tracker, force=True).status == "finished"


def test_a_tracker_that_fails_is_a_warning_and_the_run_goes_on(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = types.ModuleType("wandb")
    broken.__spec__ = types.SimpleNamespace(name="wandb")  # type: ignore[assignment]

    def fails(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to\nthe server")

    broken.Settings = fails  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", broken)
    done = run(track="wandb")
    assert done.status == "finished"
    [warning] = [text for text in done.history.warnings if "wandb" in text]
    assert "takes no more numbers (ConnectionError: no route to the server)" in warning


def test_a_tracker_that_is_not_installed_is_named_before_work(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aprnb.tuning.tracking.find_spec", lambda _: None)
    with pytest.raises(UsageProblem, match="--track mlflow: it is not installed\n→ pip install mlflow"):
        run(track="mlflow")
    assert not (tmp_path / "x.run").exists()
    with pytest.raises(UsageProblem, match="did you mean tensorboard"):
        run(track="tensorbord")


def test_nothing_is_tracked_unless_asked_for(run: Any, tmp_path: Path) -> None:
    run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.adapter", "x.run"]
