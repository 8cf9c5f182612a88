"""Adapters sit where they should and come back from PEFT's own files with the same loss."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from aprnb.adapters import read_adapter
from aprnb.adapters.base_content import BaseContent
from aprnb.errors import FileMissing, OutputError, OutputExists, UsageProblem
from aprnb.tuning.results import saved_adapter as adapter_module
from aprnb.tuning.results.saved_adapter import load_adapter, save_adapter
from aprnb.tuning.training.events import EvalEvent
from aprnb.tuning.training.lora import adapted_layers, attach, fill
from aprnb_tests.tiny import tiny_model, tiny_nf4_model, tiny_recipe, tiny_run

BASE = Path("models/tiny.apr")
LINEARS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_all_linear_means_every_linear_module_of_the_layers_and_not_the_head() -> None:
    names = {name.rpartition(".")[2] for name in adapted_layers(attach(tiny_model(), tiny_recipe()))}
    assert names == LINEARS


def test_named_modules_alone_get_an_adapter() -> None:
    layers = adapted_layers(attach(tiny_model(), tiny_recipe(target_modules=("q_proj", "v_proj"))))
    assert {name.rpartition(".")[2] for name in layers} == {"q_proj", "v_proj"}
    assert len(layers) == 4


@pytest.mark.parametrize(("name", "near"), [("qproj", "did you mean q_proj?"), ("lm_head", "expected some of")])
def test_a_module_that_takes_no_adapter_is_rejected(name: str, near: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        attach(tiny_model(), tiny_recipe(target_modules=(name,)))
    assert near in str(caught.value)


@pytest.mark.parametrize("sixteen_bit", [True, False])
def test_the_matrices_are_float32_over_any_base(sixteen_bit: bool) -> None:
    base = tiny_model().bfloat16() if sixteen_bit else tiny_nf4_model()
    model = attach(base, tiny_recipe())
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def test_the_layers_have_the_recipes_rank_scale_and_dropout() -> None:
    layers = adapted_layers(attach(tiny_model(), tiny_recipe(rank=3, alpha=12.0, lora_dropout=0.25))).values()
    assert {len(layer.lora_A["default"].weight) for layer in layers} == {3}
    assert {layer.scaling["default"] for layer in layers} == {4.0}  # alpha / rank; rsLoRA would have 12 / sqrt(3)
    assert {layer.lora_dropout["default"].p for layer in layers} == {0.25}


def test_the_seed_decides_the_matrices() -> None:
    one, same, other = (attach(tiny_model(), tiny_recipe(seed=seed)).state_dict() for seed in (1, 1, 2))
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight"
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])


def test_the_folder_has_pefts_layout(tmp_path: Path) -> None:
    save_adapter(attach(tiny_model(), tiny_recipe()), tmp_path / "a.adapter", BASE)
    assert sorted(path.name for path in (tmp_path / "a.adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((tmp_path / "a.adapter" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["base_model_name_or_path"], config["r"]) == ("LORA", "tiny.apr", 4)
    assert set(config["target_modules"]) == LINEARS
    assert len(load_file(tmp_path / "a.adapter" / "adapter_model.safetensors")) == 2 * 2 * 7


def test_plain_peft_gives_the_same_evaluation_loss_in_a_fresh_process(tmp_path: Path) -> None:
    run = tiny_run()
    loss = [event.eval_loss for event in run.events() if isinstance(event, EvalEvent)][-1]
    save_adapter(run.model, tmp_path / "a.adapter", BASE)
    script = """
import sys, torch
from peft import PeftModel
from torch.nn.functional import cross_entropy
from aprnb_tests.tiny import tiny_examples, tiny_model
torch.set_num_threads(1)
model = PeftModel.from_pretrained(tiny_model(), sys.argv[1]).eval()
total, count = 0.0, 0
for example in tiny_examples(6, seed=2).examples:
    ids = torch.from_numpy(example.input_ids.astype("int64"))
    wanted = torch.where(torch.from_numpy(example.labels_mask), ids, -100)[1:]
    with torch.no_grad():
        logits = model(input_ids=ids[None]).logits[0, :-1]
    total += cross_entropy(logits, wanted, ignore_index=-100, reduction="sum").item()
    count += int((wanted != -100).sum())
print(total / count)
"""
    tests = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)])}
    command = [sys.executable, "-c", script, str(tmp_path / "a.adapter")]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert float(found.stdout) == pytest.approx(loss, rel=1e-5)


def test_an_adapter_comes_back_with_every_tensor(tmp_path: Path) -> None:
    run = tiny_run()
    list(run.events())
    save_adapter(run.model, tmp_path / "a.adapter", BASE)
    again = load_adapter(tiny_model(), tmp_path / "a.adapter")
    ids = torch.arange(2, 20)[None]
    with torch.no_grad():
        assert torch.equal(run.model.eval()(ids).logits, again.eval()(ids).logits)


def test_an_adapter_with_a_tensor_too_few_is_rejected(tmp_path: Path) -> None:
    folder = save_adapter(attach(tiny_model(), tiny_recipe()), tmp_path / "a.adapter", BASE)
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(
        UsageProblem, match=r"tensors that are not pairs: model\.layers\.0\.\S+ has no lora_A; expected lora_A"
    ):
        load_adapter(tiny_model(), folder)


def test_an_adapter_of_fewer_modules_does_not_fill_a_run(tmp_path: Path) -> None:
    model = attach(tiny_model(), tiny_recipe(target_modules=("q_proj",)))
    folder = save_adapter(model, tmp_path / "a.adapter", BASE)
    with pytest.raises(UsageProblem, match=r"does not fit the model: .*proj\.lora_"):
        fill(attach(tiny_model(), tiny_recipe()), read_adapter(folder))


def test_a_folder_without_an_adapter_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileMissing, match=r"no adapter_config\.json"):
        load_adapter(tiny_model(), tmp_path)


def test_an_existing_folder_stays_unless_force_is_given_and_a_run_wrote_it(tmp_path: Path) -> None:
    model, folder = attach(tiny_model(), tiny_recipe()), tmp_path / "a.adapter"
    content = BaseContent({"hidden_size": 64}, {})
    save_adapter(model, folder, BASE, content=content)
    before = (folder / "adapter_config.json").stat().st_ino
    with pytest.raises(OutputExists, match=r"a\.adapter exists"):
        save_adapter(model, folder, BASE, content=content)
    save_adapter(model, folder, BASE, force=True, content=content)
    assert (folder / "adapter_config.json").stat().st_ino != before


@pytest.mark.parametrize("name", ["mine.txt", "notes/mine.txt", "adapter_model.safetensors.bak"])
def test_files_that_no_run_wrote_stay_whatever_is_forced(tmp_path: Path, name: str) -> None:
    model, folder = attach(tiny_model(), tiny_recipe()), tmp_path / "a.adapter"
    save_adapter(model, folder, BASE, content=BaseContent({}, {}))
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("mine")
    with pytest.raises(OutputExists, match=f"holds {name}, not written by aprnb; nothing is removed"):
        save_adapter(model, folder, BASE, force=True)
    assert (folder / name).read_text() == "mine"
    assert (folder / "adapter_config.json").exists()


def test_an_adapter_folder_of_another_program_is_not_replaced(tmp_path: Path) -> None:
    model = attach(tiny_model(), tiny_recipe())
    folder = save_adapter(model, tmp_path / "a.adapter", BASE)  # PEFT's files alone: nothing says whose they are
    with pytest.raises(OutputExists, match=r"adapter_config\.json, adapter_model\.safetensors, not written by aprnb"):
        save_adapter(model, folder, BASE, force=True)


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OutputError("no space left")

    monkeypatch.setattr(adapter_module, "write_tensors", full)
    with pytest.raises(OutputError):
        save_adapter(attach(tiny_model(), tiny_recipe()), tmp_path / "a.adapter", BASE)
    assert list(tmp_path.iterdir()) == []
