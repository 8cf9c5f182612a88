"""Other readers of what tuning accepts, with no code of the package: json, numpy and safetensors alone."""

from __future__ import annotations

import hashlib
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
    "auto_mapping base_model_name_or_path corda_config eva_config exclude_modules inference_mode layers_pattern "
    "layers_to_transform loftq_config lora_dropout lora_ga_config megatron_core peft_version qalora_group_size "
    "revision runtime_config target_modules task_type r lora_alpha modules_to_save target_parameters rank_pattern "
    "alpha_pattern".split()
)
"""Keys of an adapter's config that tensors make superfluous, or that are numbers of their own."""
LORA: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",), "bias": ("none", "all", "lora_only"), "use_rslora": (True, False),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal", "mica"), "fan_in_fan_out": (True, False),
    "ensure_weight_tying": (True, False), "trainable_token_indices": (None, [], {}),
}  # fmt: skip
PAIR = re.compile(r"base_model\.model\.(.+?)\.lora_([AB])(?:\.[\w-]+)?\.weight")
WHOLE = re.compile(r"base_model\.model\.(.+\.(?:weight|bias))")


def parsed(data: bytes) -> Any:
    """The JSON in `data`; of a repeated key the last value that is not null."""

    def merged(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if value is not None or key not in found:
                found[key] = value
        return found

    return json.loads(text_of(data), object_pairs_hook=merged)


def text_of(data: bytes) -> str:
    """UTF-16 with a byte order mark, else UTF-8 with or without one."""
    return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")


def tensors_of(data: bytes) -> dict[str, Any]:
    """The tensors of a safetensors file, read by the format's own library."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return dict(load(data))
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise WrongVerdict(f"safetensors does not read the file: {error}") from None


def hold_adapter(folder: Path, config: Mapping[str, Any], changes: Mapping[str, np.ndarray]) -> None:
    """Raises WrongVerdict unless the files in `folder` turn weights of zeros into `changes`, name → array [out, in]."""
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
    pairs: dict[str, dict[str, np.ndarray]] = {}
    whole: dict[str, np.ndarray] = {}
    for name, tensor in tensors_of((folder / "adapter_model.safetensors").read_bytes()).items():
        values = tensor.double().numpy()
        if not tensor.is_floating_point() or not np.isfinite(values).all():
            raise WrongVerdict(f"{name} is {tensor.dtype} {list(tensor.shape)}, or not finite")
        if match := PAIR.fullmatch(name):
            pairs.setdefault(f"{match[1]}.weight", {})[match[2]] = values
        elif match := WHOLE.fullmatch(name):
            whole[match[1]] = values
        else:
            raise WrongVerdict(f"the file holds {name!r}")
    if pairs.keys() | whole.keys() != changes.keys() or any(pair.keys() != {"A", "B"} for pair in pairs.values()):
        raise WrongVerdict(f"pairs for {sorted(pairs)}, {sorted(whole)} whole, changes for {sorted(changes)}")
    if any(changes[name].shape != values.shape or (changes[name] != values).any() for name, values in whole.items()):
        raise WrongVerdict("what was saved whole is not what is written")
    for name, pair in pairs.items():
        _hold_pair(stated, name, pair, changes[name])


def _hold_pair(stated: Mapping[str, Any], name: str, pair: Mapping[str, np.ndarray], change: np.ndarray) -> None:
    module = name.removesuffix(".weight")
    rank, alpha = (_first_of(stated, f"{key}_pattern", module) for key in ("rank", "alpha"))
    rank, alpha = rank or stated["r"], stated["lora_alpha"] if alpha is None else alpha
    scale = alpha / (math.sqrt(rank) if stated.get("use_rslora") else rank)
    if any(matrix.ndim != 2 for matrix in pair.values()) or (pair["A"].shape[0], pair["B"].shape[1]) != (rank, rank):
        raise WrongVerdict(f"{name} is {pair['B'].shape} · {pair['A'].shape}, of rank {rank}")
    with np.errstate(all="ignore"):
        wanted = scale * (pair["B"] @ pair["A"])
        largest = np.abs(wanted).max(initial=0)
        fits = change.shape == wanted.shape and np.allclose(change, wanted, 1e-3, 1e-4 * largest + 1e-40)
    if largest < 1e35 and not fits:
        raise WrongVerdict(f"the change of {name} is not scale · B · A")


def _first_of(stated: Mapping[str, Any], key: str, module: str) -> Any:
    """The value of the first pattern that matches, as PEFT's `get_pattern_key` finds it."""
    patterns = stated.get(key) or {}
    return next((value for text, value in patterns.items() if re.match(rf"(.*\.)?({text})$", module)), None)


def hold_state(folder: Path, state: Any, trainable: Mapping[str, Any], optimizer: Any) -> None:
    """Raises WrongVerdict unless what was restored is what the two files in `folder` hold, finite and of one step."""
    document = parsed((folder / "state.json").read_bytes())
    tensors = tensors_of((folder / "tensors.safetensors").read_bytes())
    if (
        document["step"] != state.step
        or folder.name != f"step-{state.step:06d}"
        or (None if state.best is None else list(state.best)) != document["best"]
    ):
        raise WrongVerdict("step or best are not the file's")
    if state.best is not None and not (0 <= state.best[0] <= state.step and math.isfinite(state.best[1])):
        raise WrongVerdict(f"best is {state.best}")
    if hashlib.sha256((folder / "tensors.safetensors").read_bytes()).hexdigest() != document["tensors_sha256"]:
        raise WrongVerdict("the tensors' file has another hash than the document states")
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


def hold_events(path: Path, steps: list[dict[str, Any]], evaluations: list[dict[str, Any]]) -> None:
    """Raises WrongVerdict unless each row is a line of the file, with possible numbers, and each step is there once."""
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    for rows in (steps, evaluations):
        numbers = [row["step"] for row in rows]
        if numbers != sorted(set(numbers)):
            raise WrongVerdict(f"the steps are {numbers[:20]}")
        for row in rows:
            if not all(type(value) in (int, float) and math.isfinite(value) for value in row.values()):
                raise WrongVerdict(f"a row has what is no number: {row}")
            counts = [row.get(name, 0) for name in ("step", "tokens", "labelled_tokens", "elapsed_s")]
            if min(counts) < 0 or row.get("tokens_per_s", 1) <= 0:
                raise WrongVerdict(f"a row has a number that no run has: {row}")
            if not any(_has_row(line, row) for line in lines):
                raise WrongVerdict(f"no line has {row}")


def _has_row(line: bytes, row: Mapping[str, Any]) -> bool:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and all(found.get(name) == value for name, value in row.items())


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
