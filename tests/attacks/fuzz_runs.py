"""A tiny base, a run over it, its state and its adapter, which the targets of tuning damage."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

import aprnb
from aprnb.architecture import ContractReport, check_contract, resolve
from aprnb.tuning.results.artefacts import RUN_FILES
from aprnb.tuning.results.base_content import BaseContent, base_content
from aprnb.tuning.results.saved_adapter import save_adapter
from aprnb_tests.safetensors_bytes import packed
from aprnb_tests.tiny import TinyRun, saver, schedule_of, tiny_config, tiny_examples, tiny_model, tiny_run

STEPS = 2
MODULES = ("down_proj", "q_proj")


@dataclass
class Finished:
    """A run of two steps; `content` and `report` are those of its base."""

    run: TinyRun
    content: BaseContent
    report: ContractReport
    folder: Path

    def files(self, name: str) -> dict[str, bytes]:
        """Every file below `name`, by its path from there."""
        root = self.folder / name
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@cache
def finished_run(folder: Path) -> Finished:
    """Trains LoRA matrices of two modules; writes `base`, `adapter` and `run` into `folder`."""
    torch.set_num_threads(1)
    report, content = _base(folder / "base")
    schedule = schedule_of(tiny_examples(), *STEPS * [((0, 1),)])
    run = tiny_run(schedule, tiny_model(), rank=2, target_modules=MODULES, eval_every=1)
    where = folder / "run"
    where.mkdir()
    list(run.events(save=saver(where / "state")))
    _stop_the_clock(where / "state" / f"step-{STEPS:06d}" / "state.json")
    save_adapter(run.model, folder / "adapter", folder / "base", content=content)
    documents = {"files.json": {"files": list(RUN_FILES)}, "base.json": content.to_json(), "recipe.json": {}}
    for name, document in documents.items():
        (where / name).write_text(json.dumps(document))
    (where / "metrics.jsonl").write_text('{"step": 1, "eval_loss": 4.0}\n')
    return Finished(run, content, report, folder)


def _stop_the_clock(path: Path) -> None:
    """Times that differ from run to run would make other mutations of the same numbers."""
    document = json.loads(path.read_text())
    for part in (document, *document["metrics"]):
        part |= {name: 1.5 for name in ("elapsed_s", "tokens_per_s") if name in part}
    path.write_text(json.dumps(document))


def _base(folder: Path) -> tuple[ContractReport, BaseContent]:
    """The tiny model as a Hugging Face folder."""
    folder.mkdir()
    weights = {name: tensor for name, tensor in tiny_model().state_dict().items() if name != "lm_head.weight"}
    named = {name: ("F32", list(tensor.shape), tensor.numpy().tobytes()) for name, tensor in weights.items()}
    (folder / "model.safetensors").write_bytes(packed(named))
    (folder / "config.json").write_text(json.dumps(tiny_config().to_dict()))
    checkpoint = aprnb.open(folder)
    report = check_contract(checkpoint, resolve(checkpoint)).raise_for_violations()
    return report, base_content(checkpoint, report)
