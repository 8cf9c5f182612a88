"""A tiny base, a run over it, its state and its adapter, which the targets of tuning damage."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

import aprnb
from aprnb.adapters.base_content import BaseContent, base_content
from aprnb.architecture import ContractReport, check_contract, resolve
from aprnb.tuning.planning.device import DeviceFacts
from aprnb.tuning.planning.make_plan import make_plan
from aprnb.tuning.planning.recipe import RunOptions
from aprnb.tuning.planning.saving import SaveRule
from aprnb.tuning.results.event_log import EventLog
from aprnb.tuning.results.places import RUN_FILES
from aprnb.tuning.results.saved_adapter import save_adapter
from aprnb_tests.safetensors_bytes import packed
from aprnb_tests.tiny import TinyRun, saver, schedule_of, tiny_config, tiny_examples, tiny_model, tiny_run

STEPS = 2
MERGE_CHECK = {"max_abs_difference": 0.25, "logit_range": 16.0, "positions": 12, "adapter_effect": 2.5}
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
    log = EventLog(where / "events.jsonl", clock=lambda: 1.5)
    log.start({"base": "base.apr", "total_steps": STEPS, "resumed_from": None})
    for event in run.events(save=saver(where / "states"), saving=SaveRule(1, None)):
        log(event)
    log.end({"status": "finished", "output": True, "adapter": True, "merge_check": MERGE_CHECK})
    log.close()
    for path in (where / "events.jsonl", *where.glob("states/*/state.json")):
        _stop_the_clock(path)
    save_adapter(run.model, folder / "adapter", folder / "base", content=content)
    documents = {
        "files.json": {"files": list(RUN_FILES)},
        "base.json": content.to_json(),
        "plan.json": _plan(report, run),
    }
    for name, document in documents.items():
        (where / name).write_text(json.dumps(document))
    (where / "recipe.toml").write_text('model = "base.apr"\n')
    return Finished(run, content, report, folder)


def _stop_the_clock(path: Path) -> None:
    """Times and other facts that differ from run to run would make other mutations of the same numbers."""
    changing = {"elapsed_s": 1.5, "tokens_per_s": 1.5, "memory_bytes": 1, "process": 1, "remaining_s": 1.5, "path": "x"}
    documents = [json.loads(line) for line in path.read_text().splitlines()]
    for document in documents:
        document |= {name: value for name, value in changing.items() if name in document}
    path.write_text("".join(f"{json.dumps(document)}\n" for document in documents))


def _plan(report: ContractReport, run: TinyRun) -> dict[str, Any]:
    facts = DeviceFacts("cpu", "a processor", "float32", 1 << 33)
    plan = make_plan(report, run.recipe, RunOptions(), run.examples, run.held_out, run.schedule, facts, ("a note",))
    return plan.to_json() | {"base": "base.apr"}


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
