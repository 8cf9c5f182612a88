"""What a run writes: hashes in `manifest.json`, computed here again, and states and dtypes as they were asked for."""

from __future__ import annotations

import hashlib
import json
from importlib import metadata
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

import aprnb

ROWS = [{"instruction": f"Spell {word}.", "response": " ".join(word)} for word in ("cow", "hen", "fish", "goat")]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def folder(pocket_qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run of six steps."""
    folder = tmp_path_factory.mktemp("run")
    aprnb.finetune(
        pocket_qwen3, data=ROWS, output=str(folder / "out.apr"), method="lora", rank=2, max_steps=6, batch_size=1,
        val_split=0, device="cpu", output_dtype="F32", save_every="2", keep=3,
    )  # fmt: skip
    return folder


def test_the_manifest_has_the_hash_of_every_input_and_output(folder: Path, pocket_qwen3: Path) -> None:
    found = json.loads((folder / "out.run" / "manifest.json").read_text())
    assert found["base"]["sha256"] == sha256(pocket_qwen3.read_bytes())
    template = aprnb.load(pocket_qwen3, device="cpu")[1].chat_template
    assert found["chat_template"]["sha256"] == sha256(template.encode())
    written = [folder / "out.apr", *sorted((folder / "out.adapter").iterdir())]
    assert len(written) == 4
    assert found["files"] == {path.relative_to(folder).as_posix(): sha256(path.read_bytes()) for path in written}


def test_as_many_states_are_kept_as_asked_for(folder: Path) -> None:
    states = sorted(path.name for path in (folder / "out.run" / "states").iterdir())
    assert states == ["step-000002", "step-000004", "step-000006"]


def test_a_runs_output_has_the_dtype_that_was_asked_for(folder: Path) -> None:
    with aprnb.open(folder / "out.apr") as written:
        assert {entry.dtype.name for entry in written.tensors.values()} == {"F32"}


def test_a_checkout_that_is_not_installed_trains_and_writes_its_manifest(
    pocket_qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name == "aprnb":
            raise PackageNotFoundError(name)
        return metadata.version(name)

    monkeypatch.setattr("aprnb.tuning.results.manifest.version", version)
    run = aprnb.finetune(
        pocket_qwen3, data=ROWS, output=str(tmp_path / "out.apr"), method="lora", rank=2, max_steps=1, batch_size=2,
        val_split=0, device="cpu", dtype="float32", adapter_only=True,
    )  # fmt: skip
    assert run.status == "finished"
    versions = json.loads((tmp_path / "out.run" / "manifest.json").read_text())["versions"]
    assert versions["aprnb"] is None
    assert versions["torch"] == metadata.version("torch")
