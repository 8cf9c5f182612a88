"""Run folders are untrusted input: --force and --resume remove only files that a run wrote and listed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from odd_files import (
    changing_rename,
    dangling_link,
    folder_,
    link_to_a_device,
    link_to_itself,
    pipe,
    sparse_file,
)
from registry import way
from safetensors.torch import load_file, save_file

import aprnb
from aprnb.adapters.files import RECORD_NAME
from aprnb.errors import AprnbError, FileMissing, OutputExists
from aprnb.formats.atomic import remove_folder, write_json
from aprnb.formats.source import file_sha256
from aprnb.tuning.results import places as artefacts
from aprnb.tuning.results.owned_files import ADAPTER_FILES, own_adapter_files
from aprnb.tuning.results.places import Places, places

finetune_module = import_module("aprnb.tuning.finetune")  # the function of that name hides it
pytestmark = pytest.mark.usefixtures("nothing_waits")

COW = "notebooks/ask-the-cow.jsonl"
ONE_STEP: dict[str, Any] = {"max_steps": 1, "rank": 1, "method": "lora"}


# What --force and --resume remove


def listing(folder: Path) -> list[tuple[str, int, bytes | None]]:
    """Every path with its inode, and its bytes where it is a small file."""
    found = [(path, os.lstat(path)) for path in sorted(folder.rglob("*"))]
    return [
        (str(path), stat.st_ino, path.read_bytes() if path.is_file() and stat.st_size < 1 << 20 else None)
        for path, stat in found
    ]


@pytest.fixture
def earlier(tmp_path: Path) -> Places:
    """The folders of an earlier run, as it left them."""
    where = places(str(tmp_path / "out.apr"), Path("base.apr"))
    step = where.states / "step-000001"
    step.mkdir(parents=True)
    where.adapter.mkdir()
    for name in ("recipe.toml", "plan.json", "base.json", "events.jsonl", "manifest.json"):
        (where.run / name).write_text("{}")
    for name in ("state.json", "tensors.safetensors"):
        (step / name).write_text("{}")
    write_json(where.run / artefacts.RUN_LIST, {"files": list(artefacts.RUN_FILES)}, force=True)
    for name in ADAPTER_FILES:
        (where.adapter / name).write_text("{}")
    write_json(where.adapter / RECORD_NAME, {"files": list(ADAPTER_FILES)}, force=True)
    return where


@pytest.fixture
def base(pocket_qwen3: Path, repository: Path) -> dict[str, Any]:
    """Arguments of a short run."""
    return {"model": pocket_qwen3, "data": repository / COW, **ONE_STEP}


def kept(base: dict[str, Any], where: Places, **options: Any) -> str:
    """The error of a run that is rejected before it does anything; everything stays as it was."""
    before = listing(where.output.parent)
    with pytest.raises((OutputExists, FileMissing)) as caught:
        aprnb.finetune(output=str(where.output), **base, **options)
    assert listing(where.output.parent) == before
    return str(caught.value)


def free(where: Places) -> None:
    artefacts.require_free(where, writes_model=True, writes_adapter=True, force=True, resume=False)


def test_the_folders_of_an_earlier_run_may_be_replaced_and_go_completely(earlier: Places) -> None:
    free(earlier)
    remove_folder(earlier.run, artefacts.own_run_files(earlier.run))
    remove_folder(earlier.adapter, own_adapter_files(earlier.adapter))
    assert list(earlier.output.parent.iterdir()) == []


def test_incomplete_files_of_a_killed_run_may_be_replaced(earlier: Places) -> None:
    (earlier.run / ".aprnb-01234567-abcdefgh.part").write_text("{")
    work = earlier.states / ".aprnb-01234567-abcdefgh.part"
    for name in ("new", "former"):
        (work / name).mkdir(parents=True)
        (work / name / "tensors.safetensors").write_text("half")
    free(earlier)


def text(path: Path) -> None:
    path.write_text("mine")


def deep(path: Path) -> None:
    path.joinpath(*["deep"] * 30).mkdir(parents=True)
    path.joinpath(*["deep"] * 30, "thesis.tex").write_text("mine")


FOREIGN: dict[str, Callable[[Path], None]] = {
    "thesis.tex": text, ".hidden": text, "chapters/one.tex": text, "empty/": folder_, "thesis/": deep,
    "pipe": pipe, "link": link_to_itself, "elsewhere": link_to_a_device,
}  # fmt: skip
IN_RUN = {
    **FOREIGN, "states/notes.txt": text, "states/step-000001/notes.txt": text,
    "states/step-000001/more/state.json": text,
    "states/empty/": folder_, "states/step-000002": link_to_itself, "states/step-000001/pipe": pipe,
    "recipe.toml.bak": text, "states/state.json": text, ".aprnb-notes": text,
}  # fmt: skip


@way("other files in a folder that --force replaces")
@pytest.mark.parametrize("name", IN_RUN, ids=ascii)
def test_force_names_what_no_run_wrote_and_removes_nothing(base: dict[str, Any], earlier: Places, name: str) -> None:
    (earlier.run / name).parent.mkdir(parents=True, exist_ok=True)
    IN_RUN[name](earlier.run / name)
    found = kept(base, earlier, force=True)
    assert name.rstrip("/") in found
    assert "nothing is removed" in found


@pytest.mark.parametrize("options", [{"force": True}, {"resume": True}], ids=str)
@pytest.mark.parametrize("name", FOREIGN, ids=ascii)
def test_neither_force_nor_resume_removes_other_files_from_the_adapters_folder(
    base: dict[str, Any], earlier: Places, name: str, options: dict[str, Any]
) -> None:
    (earlier.adapter / name).parent.mkdir(parents=True, exist_ok=True)
    FOREIGN[name](earlier.adapter / name)
    found = kept(base, earlier, **options)
    assert name.rstrip("/") in found
    assert "nothing is removed" in found


LISTS: dict[str, Any] = {
    "the person's files": ["thesis.tex", "chapters/one.tex"],
    "everything": ["*", "**", "*/*", "states/*", "?"],
    "paths that lead out": ["../thesis.tex", "/etc/passwd", "..", "."],
    "text": "thesis.tex",
    "numbers": [1, 2],
    "nothing": None,
    "an object": {"thesis.tex": 1},
    "lists": [["thesis.tex"]],
}


@way("a run's list of files that names other files")
@pytest.mark.parametrize("name", LISTS)
def test_a_planted_list_makes_no_other_file_ours(base: dict[str, Any], earlier: Places, name: str) -> None:
    for folder, file in ((earlier.run, artefacts.RUN_LIST), (earlier.adapter, RECORD_NAME)):
        (folder / "chapters").mkdir()
        (folder / "thesis.tex").write_text("mine")
        (folder / "chapters" / "one.tex").write_text("mine")
        write_json(folder / file, {"files": LISTS[name]}, force=True)
    assert "out.adapter holds" in kept(base, earlier, force=True)
    shutil.rmtree(earlier.adapter)
    assert "out.run holds" in kept(base, earlier, force=True)


BROKEN_LISTS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "a pipe": pipe,
    "a folder": folder_,
    "a link to a device": link_to_a_device,
    "a link to itself": link_to_itself,
    "sparse": sparse_file,
    "not JSON": lambda path: path.write_text("{"),
    "a list": lambda path: path.write_text("[]"),
    "nested deeply": lambda path: path.write_text("[" * 200_000),
    "not UTF-8": lambda path: path.write_bytes(b'{"files": ["\xff"]}'),
}


@pytest.mark.parametrize("name", BROKEN_LISTS)
def test_a_folder_without_a_readable_list_is_not_ours(base: dict[str, Any], earlier: Places, name: str) -> None:
    (earlier.run / artefacts.RUN_LIST).unlink()
    BROKEN_LISTS[name](earlier.run / artefacts.RUN_LIST)
    assert "out.run holds" in kept(base, earlier, force=True)


def test_a_list_that_is_a_link_to_another_runs_list_does_not_count(base: dict[str, Any], earlier: Places) -> None:
    path = earlier.run / artefacts.RUN_LIST
    path.rename(earlier.output.parent / "list.json")
    path.symlink_to(earlier.output.parent / "list.json")
    assert "out.run holds" in kept(base, earlier, force=True)


@way("a link in the place of a run's folder")
@pytest.mark.parametrize("options", [{"force": True}, {"resume": True}, {"force": True, "resume": True}], ids=str)
@pytest.mark.parametrize("name", ["out.run", "out.adapter"])
def test_a_link_in_the_place_of_a_folder_is_rejected(
    base: dict[str, Any], earlier: Places, tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    (tmp_path / name).rename(tmp_path / "moved")
    (tmp_path / name).symlink_to(tmp_path / "moved")
    assert "link" in kept(base, earlier, **options)


@pytest.mark.parametrize("name", ["states", "states/step-000001", "states/step-000001/state.json", "recipe.toml"])
def test_a_link_inside_a_runs_folder_is_not_ours(base: dict[str, Any], earlier: Places, name: str) -> None:
    (earlier.run / name).rename(earlier.output.parent / "moved")
    (earlier.run / name).symlink_to(earlier.output.parent / "moved")
    assert f"holds {name}, not written by aprnb" in kept(base, earlier, force=True)


@pytest.mark.parametrize("make", [text, pipe, dangling_link, link_to_itself])
@pytest.mark.parametrize("name", ["out.run", "out.adapter"])
@pytest.mark.parametrize("options", [{"force": True}, {"resume": True}], ids=str)
def test_what_is_not_a_folder_stays(
    base: dict[str, Any], earlier: Places, name: str, make: Callable[[Path], None], options: dict[str, Any]
) -> None:
    path = earlier.output.parent / name
    shutil.rmtree(path)
    make(path)
    kept(base, earlier, **options)


@pytest.mark.parametrize("length", [256, 300])
@pytest.mark.parametrize("options", [{}, {"force": True}, {"resume": True}], ids=str)
def test_an_output_whose_name_is_too_long_is_rejected_at_once(
    base: dict[str, Any], tmp_path: Path, length: int, options: dict[str, Any]
) -> None:
    with pytest.raises(AprnbError, match="cannot be written"):
        aprnb.finetune(output=str(tmp_path / f"{'n' * (length - 4)}.apr"), **base, **options)
    with pytest.raises(AprnbError, match="cannot be written"):
        aprnb.finetune(output=str(tmp_path / "a\0b.apr"), **base, **options)
    assert list(tmp_path.iterdir()) == []


def test_an_adapters_name_that_is_too_long_is_rejected_at_once(base: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(AprnbError, match=r"n\.adapter cannot be written|cannot be written"):
        aprnb.finetune(output=str(tmp_path / f"{'n' * 250}.apr"), **base)  # 258 with .adapter
    assert list(tmp_path.iterdir()) == []


MODEL_FOLDER: dict[str, Callable[[Path], None]] = {
    **FOREIGN, "tokenizer.json": link_to_a_device, "model-00001-of-00002.safetensors/": folder_, "merges.txt": pipe,
    "onnx/model.safetensors": text, "model.safetensors.bak": text,
}  # fmt: skip


@pytest.mark.parametrize("name", MODEL_FOLDER, ids=ascii)
def test_a_forced_conversion_replaces_only_a_folder_of_model_files(
    pocket_qwen3: Path, tmp_path: Path, name: str
) -> None:
    target = tmp_path / "hf"
    target.mkdir()
    for file in ("config.json", "model.safetensors", "generation_config.json"):
        (target / file).write_text("{}")
    (target / name).parent.mkdir(exist_ok=True)
    MODEL_FOLDER[name](target / name)
    before = listing(tmp_path)
    with pytest.raises(OutputExists, match="nothing is removed"):
        aprnb.convert(pocket_qwen3, target, force=True)
    assert listing(tmp_path) == before


# Renames and races, with a run's own folders


@way("a file added to a folder while it is replaced")
def test_a_file_added_between_check_and_removal_stays(earlier: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(source: Path, target: Path) -> None:
        if source == earlier.run:
            (source / "thesis.tex").write_text("mine")

    changing_rename(monkeypatch, change)
    with pytest.raises(OutputExists, match=r"out\.run holds thesis\.tex"):
        remove_folder(earlier.run, artefacts.own_run_files(earlier.run))
    assert (earlier.run / "thesis.tex").read_text() == "mine"
    assert (earlier.run / "recipe.toml").exists()


# End to end


def test_a_planted_state_ends_a_resumed_run_in_one_error_and_an_untouched_one_is_taken(
    base: dict[str, Any], tmp_path: Path
) -> None:
    output = tmp_path / "out.apr"
    aprnb.finetune(output=str(output), **base)
    output.unlink()
    state = tmp_path / "out.run" / "states" / "step-000001" / "tensors.safetensors"
    before, tensors = state.read_bytes(), load_file(state)
    planted = {name: torch.full((1, 1), 7.0) if name.startswith("model/") else one for name, one in tensors.items()}
    save_file(planted, state)
    written = state.with_name("state.json").read_text()
    document = json.loads(written) | {"tensors_sha256": file_sha256(state)}
    state.with_name("state.json").write_text(json.dumps(document))
    with pytest.raises(AprnbError, match=r"the saved state has .* as torch\.float32 \[1, 1\]"):
        aprnb.finetune(output=str(output), resume=True, **base)
    assert not output.exists()
    state.write_bytes(before)
    state.with_name("state.json").write_text(written)
    run = aprnb.finetune(output=str(output), resume=True, **base)
    assert run.status == "finished"
    assert output.exists()


def test_files_added_while_the_model_loads_stay(base: dict[str, Any], earlier: Places) -> None:
    def add(event: object) -> None:
        (earlier.run / "thesis.tex").write_text("mine")

    with pytest.raises(OutputExists, match=r"out\.run holds thesis\.tex"):
        aprnb.finetune(output=str(earlier.output), force=True, listener=add, **base)
    assert (earlier.run / "thesis.tex").read_text() == "mine"
    assert (earlier.run / "recipe.toml").exists()


def test_a_run_that_began_in_between_is_not_replaced_without_force(
    base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(where: Places, **options: Any) -> AbstractContextManager[None]:
        (tmp_path / "out.run").mkdir()
        write_json(tmp_path / "out.run" / artefacts.RUN_LIST, {"files": list(artefacts.RUN_FILES)}, force=True)
        return artefacts.claimed(where, **options)

    monkeypatch.setattr(finetune_module, "claimed", begin)
    with pytest.raises(OutputExists, match=r"out\.run exists"):
        aprnb.finetune(output=str(tmp_path / "out.apr"), **base)
    assert (tmp_path / "out.run" / artefacts.RUN_LIST).exists()
