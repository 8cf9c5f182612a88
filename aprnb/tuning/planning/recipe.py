"""The recipe of a run: every option of the finetune command, checked (no torch)."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

from aprnb.errors import UsageProblem, closest
from aprnb.options import Option, option, options_of, read_value

# ruff: noqa: RUF009  (`option` makes a dataclass field, as dataclasses.field does)

ADAPTER_ONLY_OPTIONS = ("rank", "alpha", "lora_dropout", "target_modules", "adapter_only")
_NOT_TRAINING = ("data", "eval_data", "model_size", "eval_every", "output", "output_dtype", "adapter_only", "force",
                 "resume", "plan", "verbose", "device", "gradient_checkpointing", "config", "overrides")  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to train and how. `None` means "settled later": by method, model, device or number of steps."""

    method: str = option("auto", "choice", "how to train", choices=("auto", "lora", "qlora", "full"))
    rank: int = option(16, "integer", "rank of the LoRA matrices", low=1, high=4096)
    alpha: float | None = option(None, "number", "LoRA scale; 2 × rank unless given", low=0)
    lora_dropout: float = option(0.0, "number", "dropout in front of LoRA", low=0, high=0.9)
    target_modules: str | tuple[str, ...] = option("all-linear", "modules", "linear modules that get an adapter")
    quantize_nf4: bool = option(False, "flag", "hold the frozen base in 4-bit NF4 (method qlora)")
    data: Any = option(None, "source", "training rows: JSON Lines file, list, DataFrame or text")
    eval_data: Any = option(None, "source", "held-out rows; replaces --val-split")
    val_split: float = option(0.1, "number", "part of the rows held out for evaluation", low=0, high=0.9)
    task: str = option("instruct", "text", "instruct: answers to instructions")
    model_size: str | None = option(None, "text", "compared with the file, for example 8B")
    max_seq_len: int | None = option(
        None, "integer", "longest row in tokens; 1024 or the model's limit unless given", low=8, high=1 << 24
    )
    learning_rate: float | None = option(
        None, "number", "peak rate; 2e-4 (lora, qlora), 2e-5 (full)", low=1e-12, high=10
    )
    epochs: int = option(3, "integer", "how often each row is seen", low=1, high=10_000)
    max_steps: int | None = option(None, "integer", "stop after this many optimizer steps", low=1, high=10**9)
    batch_size: int = option(16, "integer", "rows per optimizer step", low=1, high=1 << 24)
    micro_batch_tokens: int | None = option(None, "integer", "tokens per forward pass; by device", low=8, high=1 << 24)
    eval_every: int | None = option(None, "integer", "steps between evaluations; about ten in a run", low=1, high=10**9)
    warmup_ratio: float = option(0.03, "number", "part of the steps with a rising rate", low=0, high=1)
    weight_decay: float = option(0.0, "number", "decay of matrices (not of norms and biases)", low=0, high=10)
    max_grad_norm: float = option(1.0, "number", "clip the gradient's norm to this", low=1e-9)
    seed: int = option(42, "integer", "seed of split, order, LoRA matrices and dropout", low=0, high=2**63 - 1)
    optimizer: str = option("auto", "choice", "optimizer", choices=("auto", "adamw", "adamw8bit", "paged_adamw8bit"))
    gradient_checkpointing: str = option(
        "auto", "choice", "recompute activations in the backward pass", choices=("auto", "on", "off")
    )
    output: str | None = option(None, "text", "the tuned model, NAME.apr")
    output_dtype: str | None = option(None, "choice", "dtype of the tuned model", choices=("F32", "F16", "BF16"))
    adapter_only: bool = option(False, "flag", "write the adapter, no merged model")
    force: bool = option(False, "flag", "overwrite what exists")
    resume: bool = option(False, "flag", "continue an interrupted run")
    plan: bool = option(False, "flag", "show the plan and stop")
    verbose: bool = option(False, "flag", "show more")
    device: str = option("auto", "text", "auto, cpu, cuda or cuda:N")
    dtype: str = option("auto", "choice", "dtype of the base", choices=("auto", "float32", "bfloat16"))
    config: Any = option(None, "source", "a config.json that settles what the file does not")
    overrides: Mapping[str, Any] | None = option(None, "pairs", "field=value, settles one architecture field")
    chat_template: str | None = option(None, "text", "template name or file where the checkpoint has none")

    @classmethod
    def from_options(cls, mapping: Mapping[str, Any], where: str = "options") -> Recipe:
        """The recipe that `mapping` describes (names with `_` or `-`; None means not given).

        Raises UsageProblem for an unknown name, a value out of range, or two options that exclude each other.
        """
        given: dict[str, Any] = {}
        for written, value in mapping.items():
            known = known_option(written, where)
            if value is not None:
                given[known.name] = read_value(known, value, where)
        _refuse_contradictions(given, where)
        if given.get("quantize_nf4"):
            given["method"] = "qlora"
        return cls(**given)

    @classmethod
    def from_toml(cls, text: str, where: str = "recipe", overriding: Mapping[str, Any] | None = None) -> Recipe:
        """The recipe in `text`; `overriding` holds options of the command line, which win."""
        return cls.from_options({**read_toml(text, where), **_by_name(overriding or {}, where)}, where)

    @property
    def scale(self) -> float:
        """LoRA's alpha: what was given, else 2 × rank."""
        return 2.0 * self.rank if self.alpha is None else self.alpha

    @property
    def trains_adapter(self) -> bool:
        return self.method != "full"

    def to_json(self) -> dict[str, Any]:
        """Every option as JSON; rows given as objects are described, not copied."""
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        found["data"], found["eval_data"] = describe_source(self.data), describe_source(self.eval_data)
        found["config"] = dict(self.config) if isinstance(self.config, Mapping) else describe_source(self.config)
        if not isinstance(self.target_modules, str):
            found["target_modules"] = list(self.target_modules)
        return {**found, "alpha": self.scale, "overrides": dict(self.overrides or {})}

    def identity(self) -> dict[str, Any]:
        """The options that decide which numbers come out: a saved state may only go on with equal ones."""
        return {name: value for name, value in self.to_json().items() if name not in _NOT_TRAINING}


OPTIONS: Mapping[str, Option] = options_of(Recipe)


def known_option(written: str, where: str) -> Option:
    """The option that `written` names; raises UsageProblem with the nearest name."""
    name = written.lstrip("-").replace("-", "_")
    name = "overrides" if name == "set" else name
    if name not in OPTIONS:
        near = closest(name, OPTIONS)
        raise UsageProblem(f"unknown option {written!r}{near}", where=where, action="list them with %apr_finetune?")
    return OPTIONS[name]


def read_toml(text: str, where: str = "recipe") -> dict[str, Any]:
    """The options of a TOML recipe by name; raises UsageProblem that names the line."""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        action = "a recipe has lines such as rank = 8; training rows in a cell begin with { in its first line"
        raise UsageProblem(f"the recipe is not TOML: {problem}", where=where, action=action) from None
    except (RecursionError, ValueError):  # ValueError: an integer with more digits than Python reads
        raise UsageProblem("the recipe is nested too deeply, or holds a huge number", where=where) from None
    options: dict[str, Any] = {}
    for written, value in found.items():
        line = _line_of(written, text, where)
        known = known_option(written, line)
        if known.name in options:
            raise UsageProblem(f"the recipe sets {known.name} twice, as {written!r} too", where=line)
        if not _fits_toml(value):
            raise UsageProblem(f"{written} holds an integer of more than 64 bits", where=line)
        options[known.name] = read_value(known, value, line)
    return options


def _fits_toml(value: Any) -> bool:
    """Whether every integer in `value` has 64 bits, as TOML's have: Python writes no text of one with 5,000 digits."""
    if isinstance(value, dict | list):
        return all(map(_fits_toml, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, int) or -(1 << 63) <= value < 1 << 63


def describe_source(value: Any) -> Any:
    """Where rows come from, in words that fit into a recipe file."""
    if value is None or isinstance(value, PathLike):
        return None if value is None else fspath(value)
    if isinstance(value, str):
        return value if not value.lstrip().startswith("{") else f"{len(value.strip().splitlines())} rows of text"
    if hasattr(value, "columns"):
        return f"DataFrame of {len(value)} rows"
    return f"{type(value).__name__} of {len(value)} rows" if hasattr(value, "__len__") else type(value).__name__


def _line_of(key: str, text: str, where: str) -> str:
    pattern = re.compile(rf"^\s*\[*\s*[\"']?{re.escape(key)}[\"']?\s*[=.\]]")
    lines = [number for number, line in enumerate(text.splitlines(), 1) if pattern.match(line)]
    return f"{where}, line {lines[0]}" if lines else where


def _by_name(mapping: Mapping[str, Any], where: str) -> dict[str, Any]:
    return {known_option(name, where).name: value for name, value in mapping.items() if value is not None}


def _refuse_contradictions(given: Mapping[str, Any], where: str) -> None:
    def refuse(found: str, expected: str) -> None:
        raise UsageProblem(found, expected=expected, where=where)

    full = given.get("method") == "full"
    if full and given.get("quantize_nf4"):
        refuse("--method full with --quantize-nf4", "one of them: 4-bit weights carry adapters, they are not trained")
    useless = [OPTIONS[name].flag for name in ADAPTER_ONLY_OPTIONS if given.get(name) not in (None, False)]
    if full and useless:
        refuse(f"--method full with {', '.join(useless)}", "these only with lora or qlora")
    if given.get("val_split") and given.get("eval_data") is not None:
        refuse("--eval-data with --val-split", "one of them")
    if given.get("adapter_only") and given.get("output_dtype"):
        refuse("--output-dtype with --adapter-only", "one of them: no model is written")
    task = given.get("task", "instruct")
    if task != "instruct":
        refuse(f"--task {task} is not offered", "instruct")
