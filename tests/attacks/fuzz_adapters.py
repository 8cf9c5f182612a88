"""Target of the fuzzer: adapter folders, compared with a tiny base and put into a tiny model."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
from fuzz_case import NAMED_BY_A_PERSON, SECRET, Case, become, listing
from fuzz_documents import changed_json, damaged
from fuzz_judges import hold_adapter, hold_removed, listed_in, parsed, tensors_of
from fuzz_runs import finished_run
from fuzz_tensors import changed_tensors
from judges import WrongVerdict

from aprnb.adapters import changes_of, read_adapter
from aprnb.adapters.base_content import recorded_base, require_same_model, require_same_tensors
from aprnb.errors import AprnbError
from aprnb.formats.atomic import remove_folder
from aprnb.formats.targets import require_replaceable
from aprnb.tuning.results.owned_files import own_adapter_files
from aprnb.tuning.results.saved_adapter import load_adapter
from aprnb.tuning.training.lora import adapted_layers
from aprnb_tests.tiny import tiny_model

CONFIG, WEIGHTS, RECORD = "adapter_config.json", "adapter_model.safetensors", "aprnb.json"
FILES = (CONFIG, WEIGHTS, RECORD)
WORDS = (
    "LORA", "ADALORA", "IA3", "r", "lora_alpha", "use_rslora", "use_dora", "fan_in_fan_out", "rank_pattern",
    "alpha_pattern", "modules_to_save", "layer_replication", "bias", "lora_only", "init_lora_weights", "pissa", "olora",
    "gaussian", "eva", "loftq", "target_parameters", "trainable_token_indices", "lora_bias", "all-linear", "peft_type",
    "auto_mapping", "files", "base", "architecture", "tensors", "hidden_size", "*", "notes.txt", "../outside",
)  # fmt: skip
LOADED = 0.01
"""How many of the adapters that are accepted go into a model with PEFT, which takes a tenth of a second."""


class Adapters:
    """One adapter of two modules, with the record of its base."""

    def __init__(self, folder: Path) -> None:
        made = finished_run(folder.parent)
        self._files, self._report, self._content = made.files("adapter"), made.report, made.content
        config, record = (json.loads(self._files[name]) for name in (CONFIG, RECORD))
        config["base_model_name_or_path"] = record["base"]["architecture"]["x"] = SECRET
        self.planted = self._files | {CONFIG: json.dumps(config).encode(), RECORD: json.dumps(record).encode()}

    def build(self, rng: random.Random, case: Case) -> None:
        files, what = dict(self._files), rng.random()
        if what < 0.4 or what > 0.95:
            files[CONFIG] = damaged(rng, files[CONFIG], lambda rng, data: changed_json(rng, data, WORDS), aware=0.9)
        if 0.4 < what < 0.75 or what > 0.95:
            files[WEIGHTS] = damaged(rng, files[WEIGHTS], changed_tensors, aware=0.9)
        if 0.75 < what < 0.82:
            files[RECORD] = damaged(rng, files[RECORD], lambda rng, data: changed_json(rng, data, WORDS), aware=0.9)
        if rng.random() < 0.15:
            del files[RECORD]
        case.write({f"adapter/{name}": data for name, data in files.items()})
        if 0.82 < what < 0.95:
            become(rng, case.folder / "adapter" / rng.choice((*FILES, "notes.txt")), case.outside)
        if what > 0.99:
            become(rng, case.folder / "adapter", case.outside, NAMED_BY_A_PERSON)

    def examine(self, rng: random.Random, case: Case) -> str:
        folder = case.folder / "adapter"
        outcome = "accepted"
        try:
            self._accept(case, folder, peft=rng.random() < LOADED)
        except AprnbError as error:
            case.hold_secret(str(error))
            outcome = "rejected"
        case.hold_files()
        if rng.random() < 0.2:
            outcome += _removed(case, folder)
        return outcome

    def _accept(self, case: Case, folder: Path, peft: bool) -> None:
        """What `merge` and `load` do with an adapter, and what must be true of it then."""
        adapter, recorded = read_adapter(folder), recorded_base(folder)
        case.hold_secret(adapter.config.values, recorded)
        shapes = {row.tensor: row.expected_shape for row in self._report.rows}
        found = changes_of(adapter, self._report, lambda name: np.zeros(shapes[name], np.float32))
        with np.errstate(all="ignore"):
            zeros = {name: np.zeros(shapes[name], np.float32) for name in found}
            changes = {name: change(0, zeros[name].reshape(-1)).reshape(shapes[name]) for name, change in found.items()}
        case.hold_inside(f"adapter/{CONFIG}", f"adapter/{WEIGHTS}")
        hold_adapter(folder, adapter.config.values, changes)
        if recorded is not None:
            case.hold_inside(f"adapter/{RECORD}")
            require_same_model(recorded, self._report, "x", "y")
            require_same_tensors(recorded, self._content.tensors, folder, "x", "y")
            record = parsed((folder / RECORD).read_bytes())["base"]
            base = self._content.to_json()
            stated = {name: value for name, value in record["architecture"].items() if value is not None}
            known = {name: value for name, value in base["architecture"].items() if value is not None}
            if stated != known or record["tensors"] != base["tensors"]:
                raise WrongVerdict("the record is of another base")
        if peft:
            _hold_loaded(load_adapter(tiny_model(), folder), folder)


def _hold_loaded(model: object, folder: Path) -> None:
    """Raises WrongVerdict unless the model's LoRA matrices are the file's, in float32."""
    stored = tensors_of((folder / WEIGHTS).read_bytes())
    for name, layer in adapted_layers(model).items():  # type: ignore[arg-type]  # the model is any PEFT module
        for part in ("lora_A", "lora_B"):
            found = getattr(layer, part)["default"].weight
            wanted = stored.pop(f"{name}.{part}.weight").to(found.dtype)
            if str(found.dtype) != "torch.float32" or not bool((found == wanted).all()):
                raise WrongVerdict(f"{name} {part} is not the file's")
    if stored:
        raise WrongVerdict(f"{', '.join(stored)} went into no layer")


def _removed(case: Case, folder: Path) -> str:
    """Writes the adapter again with --force: removes the folder, if everything in it is known to be ours."""
    if folder.is_symlink() or not folder.is_dir():
        return ""
    before, listed = listing(folder), listed_in(folder / RECORD)
    try:
        own = own_adapter_files(folder)
        require_replaceable(folder, True, own)
        remove_folder(folder, own)
    except AprnbError:
        case.hold_files()
        return ", kept"
    hold_removed(before, folder, listed, FILES)
    return ", removed"
