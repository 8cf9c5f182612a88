"""Target of the fuzzer: run folders and saved states, restored into a tiny model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import shutil
from pathlib import Path

import torch
from fuzz_case import SECRET, Case, become, listing
from fuzz_documents import changed_json, damaged
from fuzz_judges import hold_events, hold_removed, hold_state, listed_in
from fuzz_runs import STEPS, finished_run
from fuzz_tensors import changed_tensors
from judges import WrongVerdict

from aprnb.adapters.base_content import MAX_RECORD_BYTES, read_content, require_same_model
from aprnb.display.html import to_html
from aprnb.errors import AprnbError
from aprnb.formats.atomic import remove_folder
from aprnb.formats.json_files import read_object
from aprnb.formats.sidecar_files import safe_path
from aprnb.tuning.results.places import RUN_FILES, Places, own_run_files, require_free
from aprnb.tuning.results.run import open_run
from aprnb.tuning.training.optimizer import build_optimizer, set_learning_rate
from aprnb.tuning.training.saving.state import RunState, restore, trainable_tensors
from aprnb.tuning.training.saving.state_files import load_state
from aprnb_tests.tiny import CPU, identity_of

NEWEST, BEFORE = f"states/step-{STEPS:06d}", f"states/step-{STEPS - 1:06d}"
JSON, TENSORS = f"{NEWEST}/state.json", f"{NEWEST}/tensors.safetensors"
EVENTS = "events.jsonl"
WORDS = (
    "__tensor__", "pairs", "items", "step", "optimizer", "state", "param_groups", "exp_avg", "exp_avg_sq", "lr",
    "params", "betas", "eps", "fused", "best", "tensors_sha256", "identity", "recipe", "data", "base", "loss",
    "eval_loss", "elapsed_s", "optimizer/state/0/step", "model/x", "files", "architecture", "tensors", "*",
    "../notes.txt", "states/*/*", "notes.txt",
)  # fmt: skip
NAMES = (
    "step-000003", "step-000001", "step-000000", "step-2", "step-0000002", "step-٠٠٠٠٠٢", "step-000002 ", "STEP-000002",
    "step-999999999", "step-0000000002", ".aprnb-x", ".aprnb-x.part", "step-000002.former", "step--00002", "x\ny",
)  # fmt: skip
MOST_BYTES = 1 << 30


class States:
    """One saved state of two steps, in its run's folder."""

    def __init__(self, folder: Path) -> None:
        made = finished_run(folder.parent)
        self._files, self._report, self._model = made.files("run"), made.report, made.run.model
        self._identity, self._recipe = identity_of(made.run.recipe), made.run.recipe
        self._trainable = trainable_tensors(self._model)
        fresh = torch.Generator().manual_seed(0)
        for parameter in self._trainable.values():
            parameter.copy_(torch.randn(parameter.shape, generator=fresh))
        self._before = {name: value.clone() for name, value in self._trainable.items()}
        self._random = torch.get_rng_state()
        self._optimizer = build_optimizer(self._model, self._recipe, CPU)
        planted = json.loads(self._files["base.json"])
        planted["architecture"]["x"] = SECRET
        self.planted = {**self._files, Path(JSON).name: self._files[JSON], Path(TENSORS).name: self._files[TENSORS]}
        self.planted |= {"base.json": json.dumps(planted).encode(), f"step-{STEPS:06d}/state.json": self._files[JSON]}
        self.planted[f"step-{STEPS:06d}/tensors.safetensors"] = self._files[TENSORS]
        records = [
            {"event": "notice", "kind": "warning", "text": SECRET},
            {"event": "end", "error": {"message": SECRET}},
        ]
        self.planted[EVENTS] = "".join(f"{json.dumps(record)}\n" for record in records).encode()
        self.planted["plan.json"] = json.dumps(json.loads(self._files["plan.json"]) | {"warnings": [SECRET]}).encode()

    def build(self, rng: random.Random, case: Case) -> None:
        files, what = dict(self._files), rng.random()
        if what < 0.5 or what > 0.97:
            files[JSON] = damaged(rng, files[JSON], _changed, aware=0.9)
        if 0.5 < what < 0.8 or what > 0.97:
            files[TENSORS] = damaged(rng, files[TENSORS], changed_tensors, aware=0.9)
            if rng.random() < 0.9:
                files[JSON] = _with_hash_of(files[TENSORS], files[JSON])
        if rng.random() < 0.15:
            name = rng.choice(("files.json", "base.json"))
            files[name] = damaged(rng, files[name], _changed)
        if rng.random() < 0.15:
            name = rng.choice((EVENTS, EVENTS, "plan.json"))
            files[name] = damaged(rng, files[name], _changed_line if name == EVENTS else _changed)
        if rng.random() < 0.7:
            files = {name: data for name, data in files.items() if not name.startswith(BEFORE)}
        run = case.folder / "out.run"
        case.write({f"out.run/{name}": data for name, data in files.items()})
        if 0.8 < what < 0.88:
            become(rng, run / rng.choice((JSON, TENSORS, JSON, TENSORS, NEWEST, "states")), case.outside)
        if 0.88 < what < 0.95:
            _rename(rng, run / "states", case.outside)
        if rng.random() < 0.1:
            become(rng, run / rng.choice(("files.json", "base.json", EVENTS, "plan.json", "lock")), case.outside)
        if rng.random() < 0.1:
            _add_own_file(rng, run, case.outside)

    def examine(self, rng: random.Random, case: Case) -> str:
        run = case.folder / "out.run"
        torch.set_rng_state(self._random)  # other targets seed it
        outcome = "restored"
        try:
            self._read_base(case, run)
            self._watch(rng, case, run)
            identity = dataclasses.replace(self._identity, total_steps=STEPS + rng.randrange(2))
            state = load_state(run / "states", identity, MOST_BYTES)
            self._restore(case, run, state)
        except AprnbError as error:
            case.hold_secret(str(error))
            outcome = "rejected"
            self._hold_unchanged()
        case.hold_files()
        if rng.random() < 0.3:
            outcome += _removed(case, run)
        return outcome

    def _watch(self, rng: random.Random, case: Case, run: Path) -> None:
        """Reads plan and events as whoever looks at a run does; errors are ignored here."""
        try:
            found = open_run(run)
            case.hold_inside("out.run/plan.json")
            document = found.to_json()
            if (run / EVENTS).exists():
                case.hold_inside(f"out.run/{EVENTS}")
            hold_events(run / EVENTS, found.history.steps, found.history.evaluations)
            case.hold_secret(json.dumps(document, allow_nan=False), found.status, found.plan.to_json())
            if rng.random() < 0.05:  # the curve takes longer than all the rest
                case.hold_secret(str(found), to_html(found.document()))
        except AprnbError as error:
            case.hold_secret(str(error))

    def _read_base(self, case: Case, run: Path) -> None:
        """Reads `base.json` as a resumed run does; errors are ignored here."""
        try:
            path = safe_path(run, "base.json")
            if path.exists():
                content = read_content(read_object(path, MAX_RECORD_BYTES), path)
                case.hold_inside("out.run/base.json")
                case.hold_secret(content.to_json(), content.digest)
                require_same_model(content, self._report, "x", "y")
        except AprnbError as error:
            case.hold_secret(str(error))

    def _restore(self, case: Case, run: Path, state: RunState) -> None:
        restore(state, self._model, self._optimizer, CPU)
        folder = run / "states" / f"step-{state.step:06d}"
        trainable = self._trainable
        try:
            case.hold_inside(
                *(f"out.run/states/{folder.name}/{name}" for name in ("state.json", "tensors.safetensors"))
            )
            numbers = torch.get_rng_state()
            torch.set_rng_state(state.random["cpu"])  # which clears bits that it does not use
            if not torch.equal(numbers, torch.get_rng_state()):
                raise WrongVerdict("the random numbers are not the state's")
            hold_state(folder, state, trainable, self._optimizer)
            case.hold_secret(state.identity, state.passed_over)
            self._go_on()
        finally:
            for name, value in self._before.items():
                trainable[name].copy_(value)
            self._optimizer = build_optimizer(self._model, self._recipe, CPU)
            torch.set_rng_state(self._random)

    def _go_on(self) -> None:
        """What a run does next with what was restored: a step without gradient."""
        parameters = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        set_learning_rate(self._optimizer, 1e-3)
        self._optimizer.step()
        moments = [values["exp_avg"] for values in self._optimizer.state_dict()["state"].values()]
        ordinary = all(bool((moment.abs() < 1e18).all()) for moment in moments)
        if ordinary and not all(bool(parameter.isfinite().all()) for parameter in parameters):
            raise WrongVerdict("a step after the restored state gives numbers that are not finite")

    def _hold_unchanged(self) -> None:
        equal = all(torch.equal(self._trainable[name], value) for name, value in self._before.items())
        if not equal or self._optimizer.state or not torch.equal(torch.get_rng_state(), self._random):
            raise WrongVerdict("a state that was rejected changed the model, the optimizer or the random numbers")


def _changed(rng: random.Random, data: bytes) -> bytes:
    return changed_json(rng, data, WORDS)


def _changed_line(rng: random.Random, data: bytes) -> bytes:
    """One line of the log changed, repeated, or moved."""
    lines = data.split(b"\n")
    at, what = rng.randrange(len(lines)), rng.random()
    if what < 0.7:
        lines[at] = _changed(rng, lines[at]) if lines[at] else b"{}"
    elif what < 0.85:
        lines.insert(rng.randrange(len(lines)), lines[at])
    else:
        lines.insert(rng.randrange(len(lines)), lines.pop(at))
    return b"\n".join(lines)


def _with_hash_of(tensors: bytes, data: bytes) -> bytes:
    """The document with the hash of the tensors' file, which an attacker can compute too."""
    try:
        document = json.loads(data)
    except ValueError:
        return data
    if not isinstance(document, dict):
        return data
    return json.dumps(document | {"tensors_sha256": hashlib.sha256(tensors).hexdigest()}).encode()


def _rename(rng: random.Random, state: Path, outside: Path) -> None:
    """The state gets another name, or the folder contains something else."""
    other = state / rng.choice([name for name in NAMES if not os.path.lexists(state / name)])
    if rng.random() < 0.3:
        (state / f"step-{STEPS:06d}").rename(other)
    elif rng.random() < 0.5:
        shutil.copytree(state / f"step-{STEPS:06d}", other)
    else:
        become(rng, other, outside)


def _add_own_file(rng: random.Random, run: Path, outside: Path) -> None:
    """A file of the user in the run's folder."""
    folder = run / rng.choice((".", "states", NEWEST, f"{NEWEST}/more"))
    free = folder.is_dir() or not (folder.exists() or folder.is_symlink())
    if free and folder.parent.is_dir() and folder.resolve().is_relative_to(run):
        folder.mkdir(exist_ok=True)
        become(
            rng,
            folder / rng.choice(("notes.txt", "state.json", "files.json", "x.part", ".aprnb-01234567-89abcdef.part")),
            outside,
        )


def _removed(case: Case, run: Path) -> str:
    """Starts again with --force: removes the run's folder, if everything in it is known to be ours."""
    before, listed = listing(run), listed_in(run / "files.json")
    try:
        require_free(
            Places(case.folder / "out.apr", case.folder / "out.adapter", run),
            writes_model=True, writes_adapter=True, force=True, resume=False,
        )  # fmt: skip
        remove_folder(run, own_run_files(run))
    except AprnbError:
        case.hold_files()
        return ", kept"
    hold_removed(before, run, listed, RUN_FILES)
    return ", removed"
