"""Other readers of what tuning accepts, with no code of the package: json, numpy and safetensors alone."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from judges import WrongVerdict

INERT: tuple[Any, ...] = (None, False, {}, [])
DESCRIBING = frozenset(
    "auto_mapping base_model_name_or_path exclude_modules inference_mode layers_pattern layers_to_transform "
    "lora_dropout megatron_core peft_version qalora_group_size revision target_modules task_type r lora_alpha".split()
)
"""Keys of an adapter's config that tensors make superfluous, or that are numbers of their own."""
LORA: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",), "bias": ("none",), "init_lora_weights": (True, False, "gaussian"),
    "use_rslora": (True, False), "fan_in_fan_out": (True, False),
}  # fmt: skip
PAIR = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")


def parsed(data: bytes) -> Any:
    """The JSON in `data`; of a repeated key the last value that is not null."""

    def merged(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if value is not None or key not in found:
                found[key] = value
        return found

    return json.loads(data.decode("utf-8"), object_pairs_hook=merged)


def tensors_of(data: bytes) -> dict[str, Any]:
    """The tensors of a safetensors file, read by the format's own library."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return dict(load(data))
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise WrongVerdict(f"safetensors does not read the file: {error}") from None


def hold_adapter(folder: Path, config: Mapping[str, Any], changes: Mapping[str, np.ndarray], scale: float) -> None:
    """Raises WrongVerdict unless the files in `folder` make a plain LoRA of these changes, name → array [out, in]."""
    stated = parsed((folder / "adapter_config.json").read_bytes())
    if stated != dict(config):
        raise WrongVerdict("the config is not the file's")
    for key, value in stated.items():
        taken = key in DESCRIBING or any(type(value) is type(one) and value == one for one in LORA.get(key, INERT))
        if not taken:
            raise WrongVerdict(f"the config sets {key} to {value!r}")
    rank, alpha = stated["r"], stated["lora_alpha"]
    if type(rank) is not int or rank < 1 or type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise WrongVerdict(f"rank {rank!r}, alpha {alpha!r}")
    if not math.isclose(scale, alpha / (math.sqrt(rank) if stated.get("use_rslora") else rank), rel_tol=1e-9):
        raise WrongVerdict(f"scale {scale} of alpha {alpha} and rank {rank}")
    _hold_pairs(tensors_of((folder / "adapter_model.safetensors").read_bytes()), changes, rank, scale)


def _hold_pairs(tensors: Mapping[str, Any], changes: Mapping[str, np.ndarray], rank: int, scale: float) -> None:
    pairs: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in tensors.items():
        match = PAIR.fullmatch(name)
        if match is None:
            raise WrongVerdict(f"the file holds {name!r}")
        values = tensor.double().numpy()
        if not tensor.is_floating_point() or tensor.ndim != 2 or not np.isfinite(values).all():
            raise WrongVerdict(f"{name} is {tensor.dtype} {list(tensor.shape)}, or not finite")
        pairs.setdefault(f"{match[1]}.weight", {})[match[2]] = values
    if pairs.keys() != changes.keys() or any(pair.keys() != {"A", "B"} for pair in pairs.values()):
        raise WrongVerdict(f"pairs for {sorted(pairs)}, changes for {sorted(changes)}")
    for name, pair in pairs.items():
        if pair["A"].shape[0] != rank or pair["B"].shape[1] != rank:
            raise WrongVerdict(f"{name} has rank {pair['A'].shape[0]} and {pair['B'].shape[1]}, not {rank}")
        with np.errstate(all="ignore"):
            wanted = scale * (pair["B"] @ pair["A"])
            largest = np.abs(wanted).max(initial=0)
            fits = changes[name].shape == wanted.shape and np.allclose(
                changes[name], wanted, 1e-3, 1e-4 * largest + 1e-40
            )
        if largest < 1e35 and not fits:
            raise WrongVerdict(f"the change of {name} is not scale · B · A")


def hold_state(folder: Path, state: Any, trainable: Mapping[str, Any], optimizer: Any) -> None:
    """Raises WrongVerdict unless what was restored is what the two files in `folder` hold, finite and of one step."""
    document = parsed((folder / "state.json").read_bytes())
    tensors = tensors_of((folder / "tensors.safetensors").read_bytes())
    if (
        document["step"] != state.step
        or folder.name != f"step-{state.step:06d}"
        or list(state.metrics) != document["metrics"]
    ):
        raise WrongVerdict("step or metrics are not the file's")
    if not all(math.isfinite(value) for row in document["metrics"] for value in row.values()):
        raise WrongVerdict("a row of metrics is not finite")
    if not 0 <= state.elapsed_s < math.inf or state.elapsed_s != float(document["elapsed_s"]):
        raise WrongVerdict(f"elapsed_s is {state.elapsed_s}")
    found = {f"model/{name}": value for name, value in trainable.items()} | {"random/cpu": state.random["cpu"]}
    for number, values in optimizer.state_dict()["state"].items():
        found |= {f"optimizer/state/{number}/{name}": value for name, value in values.items()}
        if values["step"] != state.step or bool((values["exp_avg_sq"] < 0).any()):
            raise WrongVerdict(f"the optimizer's state of parameter {number} is of another step, or negative")
    if found.keys() != tensors.keys():
        raise WrongVerdict(f"restored and stored differ: {sorted(found.keys() ^ tensors.keys())[:5]}")
    for name, value in found.items():
        if value.dtype != tensors[name].dtype or value.shape != tensors[name].shape:
            raise WrongVerdict(f"{name} is {value.dtype} {list(value.shape)}")
        if not bool((value == tensors[name]).all()) or not bool(value.isfinite().all()):
            raise WrongVerdict(f"{name} has other values than the file, or such that are not finite")


def listed_in(path: Path) -> Any:
    """What the JSON file at `path` has under `files`; None where it is no JSON object or no plain file."""
    try:
        document = parsed(path.read_bytes()) if path.is_file() and path.stat().st_size < 1 << 20 else None
    except (ValueError, RecursionError):
        return None
    return document.get("files") if isinstance(document, dict) else None


def hold_removed(before: Mapping[str, tuple[Any, ...]], folder: Path, listed: Any, possible: tuple[str, ...]) -> None:
    """Raises WrongVerdict unless everything that stood in `folder` was a regular file that its list named as ours."""
    patterns = [name for name in possible if isinstance(listed, list) and name in listed]
    for path, (mode, *_) in before.items():
        name = str(Path(path).relative_to(folder))
        ours = any(name.count("/") == pattern.count("/") and fnmatchcase(name, pattern) for pattern in patterns)
        if mode & 0o170000 not in (0o040000, 0o100000) or (mode & 0o100000 and not ours):
            raise WrongVerdict(f"{name} was removed, which the folder's list does not name")
