"""Seeded mutations of real files, as `make fuzz` runs them, and the readers that check the results."""

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzz_case import KINDS, SECRET, Case, become
from fuzz_documents import changed_json
from fuzz_judges import hold_adapter, hold_removed
from fuzz_recipes import hold_options
from fuzz_rows import hold_rows, hold_split
from judges import WrongVerdict, hold_to_bytes
from safetensors.torch import save_file

import aprnb
from aprnb.tuning.data.rows import read_rows, split_rows

FUZZ = Path(__file__).with_name("fuzz.py")
POCKET = Path(__file__).parents[2] / "notebooks" / "pocket-qwen3.apr"
ENDS = {
    "checkpoints": "green", "sidecars": "green", "tokenizers": "made", "states": "restored", "adapters": "accepted",
    "recipes": "accepted", "rows": "accepted",
}  # fmt: skip
"""What each target says of a case that came through to the end."""


def test_five_thousand_mutations_break_nothing():
    run = subprocess.run([sys.executable, str(FUZZ), "--count", "5000", "--seed", "7"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-2000:]
    for target, end in ENDS.items():
        [line] = re.findall(f"^{target}: .*", run.stdout, re.MULTILINE)
        assert " rejected" in line
        assert f" {end}" in line  # some mutations leave the files sound: the fuzzer reaches the end of the way


@pytest.mark.parametrize("ending", [".apr", ".gguf", ".safetensors"])
def test_the_judge_sees_another_shape_and_other_bytes(tmp_path, ending):
    path = tmp_path / f"x{ending}"
    aprnb.convert(POCKET, path)
    data = path.read_bytes()
    with aprnb.open(path) as checkpoint:
        hold_to_bytes(checkpoint, data, green=True)
        name, entry = next((name, e) for name, e in checkpoint.tensors.items() if len(e.shape) == 2 and e.size_bytes)
        wide = (b'"shape":[%d,%d]' % entry.shape, b'"shape":[%d,%d]' % entry.shape[::-1])
        if ending != ".safetensors":
            order = entry.shape[::-1] if ending == ".gguf" else entry.shape
            wide = tuple(b"".join(n.to_bytes(8, "little") for n in dims) for dims in (order, order[::-1]))
        assert wide[0] in data
        assert entry.shape[0] != entry.shape[1]
        with pytest.raises(WrongVerdict):
            hold_to_bytes(checkpoint, data.replace(*wide), green=True)
        payload = bytes(checkpoint.raw(name))
        with pytest.raises(WrongVerdict, match="other bytes"):
            hold_to_bytes(checkpoint, data.replace(payload, payload[::-1]), green=True)


@pytest.fixture
def case(tmp_path):
    made = Case.next_to(tmp_path, {"config.json": SECRET.encode()})
    made.clear()
    return made


def test_the_judge_sees_what_was_read_or_changed_outside_the_folder(case):
    case.write({"a.json": b"{}", "config.json": b"{}"})
    case.seal()
    case.hold_inside("a.json", "config.json")
    case.hold_secret("nothing", b"nothing")
    case.hold_files()
    become(random.Random(0), case.folder / "config.json", case.outside, ("link out",))
    with pytest.raises(WrongVerdict, match="which leads to"):
        case.hold_inside("config.json")
    with pytest.raises(WrongVerdict, match="came out"):
        case.hold_secret({"x": (case.folder / "config.json").read_text()})
    with pytest.raises(WrongVerdict, match="in the folder changed"):
        case.hold_files()
    (case.outside / "config.json").write_text("other")
    with pytest.raises(WrongVerdict, match="outside the folder changed"):
        case.hold_outside()
    case.clear()
    case.hold_outside()
    assert (case.outside / "config.json").read_text() == SECRET


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_every_kind_can_be_made_and_is_cleared(case, kind):
    case.write({"config.json": b"{}"})
    become(random.Random(0), case.folder / "config.json", case.outside, (kind,))
    case.seal()
    case.clear()
    assert not list(case.folder.iterdir())
    case.hold_outside()


def test_the_judge_of_adapters_compares_config_shapes_and_numbers(tmp_path):
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 2.0, "use_dora": False}
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0], [5.0]])
    stem = "base_model.model.model.q.lora_"

    change = 2 * (b @ a).numpy()

    def hold(config=config, a=a, b=b, change=change):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        save_file({f"{stem}A.weight": a, f"{stem}B.weight": b}, tmp_path / "adapter_model.safetensors")
        hold_adapter(tmp_path, config, {"model.q.weight": change})

    hold()
    for wrong in (
        {"change": change / 2}, {"config": {**config, "use_dora": True}}, {"config": {**config, "r": 2}},
        {"a": a * torch.nan}, {"a": a.to(torch.int32)}, {"b": b.T.contiguous()}, {"change": np.zeros((3, 2))},
    ):  # fmt: skip
        with pytest.raises(WrongVerdict):
            hold(**wrong)


def test_the_judge_of_recipes_sees_forbidden_options_and_paths(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "rows.jsonl").touch()
    hold_options({"rank": 8, "data": "rows.jsonl"}, b'rank = 8\ndata = "rows.jsonl"', tmp_path / "here")
    for name, value in (("force", True), ("output", "x.apr"), ("data", "../rows.jsonl"), ("rank", 9)):
        with pytest.raises(WrongVerdict):
            hold_options({"rank": 8, name: value}, f"{name} = 8".encode(), tmp_path / "here")


def test_the_judge_of_rows_sees_other_texts_and_lost_rows(tmp_path):
    lines = [json.dumps({"instruction": text, "response": text}).encode() for text in "abcd"]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    found = read_rows(path)
    hold_rows(found, path.read_bytes())
    with pytest.raises(WrongVerdict):
        hold_rows(found, b"\n".join(lines[::-1]))
    train, held_out = split_rows(found.rows, 0.5, 1)
    hold_split(found.rows, 0.5, train, held_out)
    for parts in ((train[1:], held_out), (train, train), (found.rows, ())):
        with pytest.raises(WrongVerdict):
            hold_split(found.rows, 0.5, *parts)


def test_the_judge_sees_that_a_users_file_was_removed(tmp_path):
    regular, link = 0o100644, 0o120777
    hold_removed({f"{tmp_path}/a.json": (regular,)}, tmp_path, ["a.json"], ("a.json", "b.json"))
    for name, mode, listed in (("b.json", regular, ["a.json"]), ("c", regular, ["c"]), ("a.json", link, ["a.json"])):
        with pytest.raises(WrongVerdict):
            hold_removed({f"{tmp_path}/{name}": (mode,)}, tmp_path, listed, ("a.json", "b.json"))


def test_the_same_number_gives_the_same_mutation():
    data = json.dumps({"a": [1, 2.5, {"b": "text"}], "c": None}).encode()
    first, second = ([changed_json(random.Random(n), data, ("a",)) for n in range(300)] for _ in range(2))
    assert first == second
    assert len(set(first)) > 200
