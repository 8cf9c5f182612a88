"""Reads PEFT adapter folders, which are untrusted: an allow-list of keys, exact shapes, finite numbers.

W' = W + (alpha / rank) · B·A (Hu et al. 2021, section 4.1); rsLoRA divides alpha by the square root of the rank.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from aprnb.architecture import ContractReport, expected_tensors
from aprnb.errors import FileMissing, UsageProblem
from aprnb.formats.codecs.arrays import Floats
from aprnb.formats.json_files import read_object
from aprnb.formats.sidecar_files import safe_path
from aprnb.formats.source import is_folder
from aprnb.printable import first_names
from aprnb.tuning.results.base_content import MAX_RECORD_BYTES, BaseContent, read_content
from aprnb.tuning.results.owned_files import CONFIG_NAME, RECORD_NAME, WEIGHTS_NAME
from aprnb.tuning.tensor_files import read_tensors

MAX_CONFIG_BYTES, MAX_WEIGHTS_BYTES = 1 << 20, 64 << 30
MAX_RANK = 65_536

_PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
_DESCRIBING = frozenset(
    "auto_mapping base_model_name_or_path exclude_modules inference_mode layers_pattern layers_to_transform "
    "lora_dropout megatron_core peft_version qalora_group_size revision target_modules task_type".split()
)
"""Keys that say where an adapter came from and which modules it was made for; the tensors show the same."""
_TAKEN: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian"),  # others change the base or are not plain LoRA
    "use_rslora": (True, False),
    "fan_in_fan_out": (True, False),  # compared with the base's layers
}
_NUMBERS = ("r", "lora_alpha")


class Delta:
    """What an adapter adds to each weight: name → float32 array in the weight's own orientation, on demand.

    `names` are the model's names of the weights, `base` is the content of the base that it was trained on, where the
    folder says so; the weights take at most `most_bytes`. Raises FileMissing, CheckpointError for files that cannot be
    read, UsageProblem for an adapter that is not a plain LoRA.
    """

    def __init__(self, folder: Path, most_bytes: int = MAX_WEIGHTS_BYTES) -> None:
        self.folder = folder
        self.config = _config(folder)
        self.tensors = read_tensors(_file(folder, WEIGHTS_NAME), min(most_bytes, MAX_WEIGHTS_BYTES))
        self.names = frozenset(_weight_name(key, folder) for key in self.tensors)
        self._require_pairs()
        self.base = _recorded_base(folder)
        self._turned: frozenset[str] = frozenset()

    def fit(self, report: ContractReport) -> None:
        """Compares the shapes with the model's; raises UsageProblem where a weight does not fit."""
        expected = expected_tensors(report.architecture)
        for name in sorted(self.names):
            if name not in expected or expected[name].rule.role not in ("linear", "conv1d", "head"):
                raise self._misfit(f"changes {name}", f"linear layers of {report.path.name}")
        for name in sorted(self.names):
            tensor = expected[name]
            rows, columns = tensor.shape[::-1] if tensor.rule.role == "conv1d" else tensor.shape
            a, b = self._pair(name)
            if (a.shape[1], b.shape[0]) != (columns, rows):
                raise self._misfit(f"has {name} as {list(b.shape)} · {list(a.shape)}", f"[{rows}, r] · [r, {columns}]")
        self._turned = frozenset(name for name in self.names if expected[name].rule.role == "conv1d")
        if self.config.get("fan_in_fan_out") and self._turned != self.names:
            raise self._misfit("sets fan_in_fan_out", "false: this model's layers are [out, in]")

    def __call__(self, name: str, rows: slice = slice(None)) -> Floats:
        """The change of the weight's `rows`."""
        a, b = (matrix.to(torch.float32) for matrix in self._pair(name))
        turned = name in self._turned
        change: Floats = (b @ a[:, rows] if turned else b[rows] @ a).mul_(self.scale).numpy()
        return change.T if turned else change

    @property
    def scale(self) -> float:
        """alpha / rank."""
        rank = self.config["r"]
        return float(self.config["lora_alpha"] / (rank**0.5 if self.config.get("use_rslora") else rank))

    def _pair(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        stem = _PREFIX + name.removesuffix(".weight")
        return self.tensors[stem + _A], self.tensors[stem + _B]

    def _require_pairs(self) -> None:
        """Each weight has A of [r, in] and B of [out, r], floats, all finite."""
        if not self.names or 2 * len(self.names) != len(self.tensors):
            raise self._misfit("contains tensors that are not pairs", "lora_A and lora_B for each weight")
        rank = self.config["r"]
        for name in sorted(self.names):
            a, b = self._pair(name)
            if a.ndim != 2 or b.ndim != 2 or (a.shape[0], b.shape[1]) != (rank, rank):
                raise self._misfit(f"has {name} as {list(b.shape)} · {list(a.shape)}", f"[out, {rank}] · [{rank}, in]")
            for matrix in (a, b):
                if not matrix.is_floating_point() or not bool(torch.isfinite(matrix).all()):
                    raise self._misfit(f"has values for {name} that are not finite numbers", "finite floats")

    def _misfit(self, found: str, expected: str) -> UsageProblem:
        return UsageProblem(f"the adapter in {self.folder} {found}", expected=expected)


def _config(folder: Path) -> Mapping[str, Any]:
    """adapter_config.json, if every key that changes the result is supported."""
    path = _file(folder, CONFIG_NAME)
    config = read_object(path, MAX_CONFIG_BYTES)
    if config.get("peft_type") not in _TAKEN["peft_type"]:
        raise UsageProblem(f"{path} describes a {config.get('peft_type')} adapter", expected="a plain LoRA")
    odd = sorted(key for key, value in config.items() if not _is_supported(key, value))
    if odd:
        raise UsageProblem(f"{path} sets {first_names(odd, 5)}", expected="a plain LoRA without them")
    for key in _NUMBERS:
        value: Any = config.get(key)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not abs(value) <= MAX_RANK**2:
            raise UsageProblem(f"{path} has {key} {str(value)[:40]}", expected="a finite number")
    if type(config["r"]) is not int or not 1 <= config["r"] <= MAX_RANK:
        raise UsageProblem(f"{path} has rank {config['r']}", expected=f"a whole number from 1 to {MAX_RANK:,}")
    return config


def _is_supported(key: str, value: Any) -> bool:
    if key in _DESCRIBING or key in _NUMBERS:
        return True
    if key in _TAKEN:
        return any(type(value) is type(taken) and value == taken for taken in _TAKEN[key])
    return value is None or value is False or value in ({}, [])  # a PEFT method that is not used


def _weight_name(key: str, folder: Path) -> str:
    for ending in (_A, _B):
        if key.startswith(_PREFIX) and key.endswith(ending):
            return key.removeprefix(_PREFIX).removesuffix(ending) + ".weight"
    raise UsageProblem(f"the adapter in {folder} contains the tensor {key[:80]}", expected="lora_A and lora_B only")


def _recorded_base(folder: Path) -> BaseContent | None:
    path = folder / RECORD_NAME
    if not os.path.lexists(path):
        return None
    return read_content(read_object(_file(folder, RECORD_NAME), MAX_RECORD_BYTES).get("base"), path)


def _file(folder: Path, name: str) -> Path:
    if not is_folder(folder):
        raise FileMissing(f"no adapter folder at {folder}", expected="a PEFT adapter folder")
    path = safe_path(folder, name)
    if not path.exists():
        raise FileMissing(f"no {name} in {folder}", expected="a PEFT adapter folder")
    return path
