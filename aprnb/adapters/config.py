"""`adapter_config.json`: an allow-list of keys and values; whatever else changes the result is rejected by its name.

Checked against every field of `LoraConfig` of PEFT 0.21; a test repeats that for the installed version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprnb.adapters.patterns import Pattern, read_patterns
from aprnb.errors import UsageProblem
from aprnb.printable import first_names, short

MAX_RANK = 65_536
MERGE_WITH_PEFT = (
    "merge it with PEFT: `PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(folder)`, "
    "then convert the folder"
)
MERGE_UNTIED = (
    "untie the base first, or both change: `m = AutoModelForCausalLM.from_pretrained(base); "
    "m.lm_head.weight = torch.nn.Parameter(m.get_input_embeddings().weight.detach().clone()); "
    "m.config.tie_word_embeddings = False`, then "
    "`PeftModel.from_pretrained(m, adapter).merge_and_unload().save_pretrained(folder)`, and convert the folder"
)
_PLAIN = "an adapter without them"

DESCRIBING = frozenset(
    "auto_mapping base_model_name_or_path corda_config eva_config exclude_modules inference_mode layers_pattern "
    "layers_to_transform loftq_config lora_dropout lora_ga_config megatron_core peft_version qalora_group_size "
    "revision runtime_config target_modules task_type".split()
)
"""Keys without effect on a trained adapter: origin, training, and which modules have matrices, which the file shows."""
HONOURED: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", "all", "lora_only"),
    # The others subtract from the base when training starts, or quantise it.
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal", "mica"),
    "use_rslora": (True, False),
    "use_dora": (True, False),
    "lora_bias": (True, False),
    "fan_in_fan_out": (True, False),  # compared with the base's layers
    "ensure_weight_tying": (True, False),
}
NUMBERS = ("r", "lora_alpha")
LISTS = ("modules_to_save", "target_parameters")
PATTERNS = ("rank_pattern", "alpha_pattern")
TOKENS = "trainable_token_indices"


@dataclass(frozen=True)
class AdapterConfig:
    """The checked config: `values` as in the file, and what they mean.

    `saved_modules` and `parameters` are PEFT's `modules_to_save` and `target_parameters`; `tokens` maps a module's
    name to the rows of its embedding that were trained.
    """

    path: Path
    values: Mapping[str, Any]
    rank: int
    alpha: float
    ranks: tuple[Pattern, ...]
    alphas: tuple[Pattern, ...]
    saved_modules: tuple[str, ...]
    parameters: tuple[str, ...]
    tokens: Mapping[str, tuple[int, ...]]

    def is_set(self, key: str) -> bool:
        """Whether the option `key` is true."""
        return self.values.get(key) is True

    @property
    def bias(self) -> str:
        return str(self.values.get("bias", "none"))

    def rank_of(self, module: str) -> int:
        """The rank of the module's matrices."""
        return int(next((found.value for found in self.ranks if found.matches(module)), self.rank))

    def scale_of(self, module: str) -> float:
        """alpha / rank (Hu et al. 2021, section 4.1); rsLoRA divides by the square root of the rank."""
        alpha = next((found.value for found in self.alphas if found.matches(module)), self.alpha)
        rank = self.rank_of(module)
        return float(alpha / (rank**0.5 if self.is_set("use_rslora") else rank))


def read_config(values: Mapping[str, Any], path: Path) -> AdapterConfig:
    """The config in `values`, read from `path`; raises UsageProblem for what is not supported."""
    _require_lora(values, path)
    odd = [f"{key} {short(value)}" for key, value in sorted(values.items()) if not _is_supported(key, value)]
    if odd:
        raise UsageProblem(f"{path} sets {first_names(odd, 5)}", expected=_PLAIN, action=_way_out(values))
    for key in NUMBERS:
        if key not in values:
            raise UsageProblem(f"{path} has no {key}", expected="a finite number", action=f"add {key} to the file")
        if not is_number(values[key]):
            raise UsageProblem(f"{path} has {key} {short(values[key])}", expected="a finite number")
    if not is_rank(values["r"]):
        raise UsageProblem(f"{path} has rank {values['r']}", expected=f"a whole number from 1 to {MAX_RANK:,}")
    return AdapterConfig(
        path, values, values["r"], values["lora_alpha"],
        read_patterns(values.get("rank_pattern") or {}, "rank_pattern", is_rank, path),
        read_patterns(values.get("alpha_pattern") or {}, "alpha_pattern", is_number, path),
        tuple(values.get("modules_to_save") or ()), tuple(values.get("target_parameters") or ()),
        _tokens(values.get(TOKENS)),
    )  # fmt: skip


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number that float32 arithmetic can use as an alpha."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_RANK**2


def is_rank(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MAX_RANK


def _require_lora(values: Mapping[str, Any], path: Path) -> None:
    kind = values.get("peft_type")
    if kind in HONOURED["peft_type"]:
        return
    if "lora_parameters" in values or "fine_tune_type" in values:
        raise UsageProblem(
            f"{path} describes an adapter of mlx-lm", expected="a PEFT adapter",
            action="run `mlx_lm.fuse --model BASE --adapter-path FOLDER --save-path MODEL`, then convert MODEL",
        )  # fmt: skip
    named = f"a {short(kind)} adapter" if kind else "an adapter without peft_type"
    raise UsageProblem(f"{path} describes {named}", expected="peft_type LORA", action=MERGE_WITH_PEFT)


def _way_out(values: Mapping[str, Any]) -> str:
    if values.get("alora_invocation_tokens") or values.get("arrow_config"):
        return "use it with PEFT, which chooses by token where it applies: no merged weights can do that"
    start = values.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(("pissa", "olora", "corda", "lora_ga")):
        return (
            "that start changes the base: save the adapter with `save_pretrained(folder, "
            "path_initial_model_for_weight_conversion=...)`, which makes it a plain LoRA, or " + MERGE_WITH_PEFT
        )
    return MERGE_WITH_PEFT


def _is_supported(key: str, value: Any) -> bool:
    if key in DESCRIBING or key in NUMBERS:
        return True
    if key in HONOURED:
        return any(type(value) is type(taken) and value == taken for taken in HONOURED[key])
    if key in LISTS:
        return value is None or (isinstance(value, list) and all(isinstance(name, str) for name in value))
    if key in PATTERNS:
        return value is None or isinstance(value, dict)
    if key == TOKENS:
        named = value if isinstance(value, dict) else {"": [] if value is None else value}
        return all(isinstance(rows, list) and all(map(_is_row, rows)) for rows in named.values())
    return value is None or value is False or value in ({}, [])  # a PEFT method that is not used


def _is_row(row: Any) -> bool:
    return type(row) is int and 0 <= row < 1 << 32


def _tokens(value: Any) -> dict[str, tuple[int, ...]]:
    """A list is of the embedding, whose name is left out."""
    named = value if isinstance(value, dict) else {"": value} if value else {}
    return {name: tuple(rows) for name, rows in named.items()}
