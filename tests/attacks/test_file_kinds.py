"""Every file that is read may be something else: a link, a pipe, a device, a folder, an impossible name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from registry import way
from ways_sidecars import POCKET, SECRET

import aprnb
from aprnb.adapters import read_adapter
from aprnb.architecture.evidence.configs import read_config
from aprnb.errors import AprnbError
from aprnb.formats.json_files import read_object
from aprnb.tokenizer.choose_template import choose_template, find_template
from aprnb.tokenizer.tokenizer_files import find_tokenizer_files, sidecar_object
from aprnb.tuning.data.rows import read_rows
from aprnb.tuning.data.sources import row_files
from aprnb.tuning.planning.identity import Identity
from aprnb.tuning.planning.recipe_file import read_recipe_file
from aprnb.tuning.training.saving.state_files import load_state
from aprnb_tests import safetensors_bytes as s

Read = Callable[[Path], Any]


def folder_with(name: str, read: Read) -> tuple[str, Read]:
    """A read of the folder that contains the file `name`."""
    return name, lambda path: read(path.parent)


def opened(folder: Path) -> Any:
    """Everything that the card shows of a Hugging Face folder."""
    (folder / "model.safetensors").write_bytes(s.small_file()) if not os.path.lexists(
        folder / "model.safetensors"
    ) else None
    with aprnb.open(folder) as checkpoint:
        report = aprnb.inspect(checkpoint)
        return json.dumps(report.to_json(), default=str) + str(dict(checkpoint.metadata))


SIDECARS = dict(
    [
        folder_with("config.json", opened),
        folder_with("tokenizer.json", opened),
        folder_with("tokenizer_config.json", opened),
        folder_with("chat_template.jinja", opened),
        folder_with("model.safetensors", opened),
        folder_with("model.safetensors.index.json", lambda folder: aprnb.open(folder).close()),
        folder_with("adapter_config.json", read_adapter),
        folder_with("adapter_model.safetensors", lambda folder: read_adapter(with_config(folder))),
        folder_with("state.json", lambda folder: load_state(in_step(folder), Identity({}, "d", "b", 1))),
        ("x.tokenizer.json", lambda path: sidecar_object(path)),
        ("x.chat_template.jinja", lambda path: find_template({}, find_tokenizer_files(path.with_name("x.apr")))),
    ]
)
"""Sidecar files: no link may lead out of their folder."""

NAMED: dict[str, Read] = {
    "checkpoint.apr": lambda path: aprnb.inspect(path),
    "checkpoint.gguf": lambda path: aprnb.inspect(path),
    "checkpoint.safetensors": lambda path: aprnb.inspect(path),
    "model.safetensors.index.json": lambda path: aprnb.inspect(path),
    "rows.jsonl": read_rows,
    "recipe.toml": read_recipe_file,
    "other-config.json": read_config,
    "template.jinja": lambda path: choose_template({}, "qwen3", find_tokenizer_files(None), str(path), None),
    "template.json": lambda path: choose_template({}, "qwen3", find_tokenizer_files(None), str(path), None),
    "list.json": read_object,
}
"""Files that the user names: links are followed, to regular files only."""


def with_config(folder: Path) -> Path:
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def in_step(folder: Path) -> Path:
    """The folder moved to the place of a state; its file is that of step 1."""
    state = folder.parent / f"{folder.name}.state"
    state.mkdir()
    shutil.move(folder, state / "step-000001")
    return state


FORMS: dict[str, Callable[[Path], None]] = {
    "a pipe": lambda path: os.mkfifo(path),
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "a terminal": lambda path: path.symlink_to("/dev/tty"),
    "a folder": lambda path: path.mkdir(),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a file of the kernel": lambda path: path.symlink_to("/proc/self/pagemap"),
    "an empty file": lambda path: path.write_bytes(b""),
}


@pytest.fixture(autouse=True)
def no_read_may_wait() -> Any:
    """A read that waits for a writer is ended by the alarm, and fails; on a busy machine other reads take seconds."""
    import signal

    def hang(*_: object) -> None:
        raise TimeoutError("the read waits")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def outcome(read: Read, path: Path) -> str:
    try:
        return str(read(path))
    except AprnbError as error:
        return str(error)


@way("a pipe, device, folder or broken link in place of a file")
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("name", [*SIDECARS, *NAMED])
def test_a_file_of_another_kind_is_an_aprnb_error_or_treated_as_missing(tmp_path, monkeypatch, name, form):
    # Files of the kernel state no size and are read up to the limit; that of rows, 4 GiB, takes seconds.
    monkeypatch.setattr(row_files, "MAX_DATA_BYTES", 64 << 20)
    folder = tmp_path / "model"
    folder.mkdir()
    form(folder / name)
    outcome({**NAMED, **SIDECARS}[name], folder / name)


def private_file(name: str) -> bytes:
    """A possible target of a link: a valid file that contains a secret."""
    if name.endswith(("safetensors",)):
        return s.file_of({SECRET: s.info("F32", [1], 0, 4)}, bytes(4))
    if name.endswith("index.json"):
        return json.dumps({"weight_map": {SECRET: "a.safetensors"}}).encode()
    if name.endswith(".json"):
        return json.dumps({"chat_template": SECRET, "model_type": SECRET, "secret": SECRET}).encode()
    return SECRET.encode()


@way("a link out of the folder in place of a file next to a checkpoint")
@pytest.mark.parametrize("name", SIDECARS)
def test_a_link_out_of_the_folder_is_not_read(tmp_path, name):
    folder, private = tmp_path / "model", tmp_path / "private"
    folder.mkdir()
    private.write_bytes(private_file(name))
    (folder / name).symlink_to(private)
    assert SECRET not in outcome(SIDECARS[name], folder / name)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "chat_template.jinja"])
def test_a_link_within_the_folder_and_a_hard_link_are_read(tmp_path, name):
    found = []
    for link in (os.symlink, os.link):
        folder = tmp_path / link.__name__
        folder.mkdir()
        (folder / "there").write_bytes(private_file(name))
        link(folder / "there", folder / name)
        found.append(SECRET in opened(folder))
    assert found == [True, True]


@pytest.mark.parametrize(
    "odd", ["a\0b", "x" * 300, "x" * 5000, "~root/x", "/proc/self/mem", "/proc/self/fd/0", "", "."]
)
@pytest.mark.parametrize("name", NAMED)
def test_a_path_that_no_file_can_have_is_an_aprnb_error(tmp_path, monkeypatch, name, odd):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AprnbError):
        NAMED[name](Path(odd))


@way("a file that becomes a pipe between the check and the opening")
def test_a_pipe_that_takes_a_file_s_place_is_not_waited_for(tmp_path, monkeypatch):
    from aprnb.formats import source

    path = tmp_path / "x.apr"
    shutil.copyfile(POCKET, path)
    check = source._require_regular_file

    def swapped(checked: Path) -> None:
        check(checked)
        checked.unlink()
        os.mkfifo(checked)

    monkeypatch.setattr(source, "_require_regular_file", swapped)
    with pytest.raises(AprnbError, match="not a regular file"):
        aprnb.open(path)


@pytest.mark.parametrize("name", ["rows.jsonl", "recipe.toml", "other-config.json", "template.jinja"])
def test_a_file_beyond_its_limit_is_not_read(tmp_path, name):
    path = tmp_path / name
    with path.open("wb") as file:
        file.truncate(5 << 30)  # a hole: takes no room on the disk
    with pytest.raises(AprnbError, match="takes 5,368,709,120 bytes"):
        NAMED[name](path)
