"""Options of fine-tuning: what decides the numbers of a training, what belongs to one call, both settled (no torch).

`Recipe` and `RunOptions` hold what was given; `None` and "auto" are open choices. `settle.settle` closes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any, Literal

from aprnb.options import Option, option, options_of

# ruff: noqa: RUF009  (`option` makes a dataclass field, as dataclasses.field does)

Switch = Literal["auto", "on", "off"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides the numbers of a training. `None` means "settled later": by method, model, device or memory."""

    method: str = option("auto", "choice", "how to train", choices=("auto", "lora", "qlora", "full"))
    rank: int | None = option(None, "integer", "rank of the LoRA matrices (default 16)", low=1, high=4096)
    alpha: float | None = option(None, "number", "LoRA alpha; 2 × rank unless given", low=0)
    lora_dropout: float | None = option(None, "number", "dropout in front of LoRA (default 0.0)", low=0, high=0.9)
    target_modules: str | tuple[str, ...] | None = option(
        None, "modules", "linear modules that get an adapter (default all-linear)"
    )
    quantize_nf4: bool = option(False, "flag", "hold the frozen base in 4-bit NF4 (method qlora)")
    val_split: float | None = option(
        None, "number", "part of the rows held out for evaluation (default 0.1)", low=0, high=0.9
    )
    task: str = option("instruct", "text", "instruct: answers to instructions")
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
    warmup_ratio: float = option(0.03, "number", "part of the steps with a rising rate", low=0, high=1)
    weight_decay: float = option(0.0, "number", "decay of matrices (not of norms and biases)", low=0, high=10)
    max_grad_norm: float = option(1.0, "number", "clip the gradient's norm to this", low=1e-9)
    seed: int = option(42, "integer", "seed of split, order, LoRA matrices and dropout", low=0, high=2**63 - 1)
    optimizer: str = option("auto", "choice", "optimizer", choices=("auto", "adamw", "adamw8bit", "paged_adamw8bit"))
    dtype: str = option("auto", "choice", "dtype of the base", choices=("auto", "float32", "bfloat16"))
    chat_template: str | None = option(None, "text", "template name or file where the checkpoint has none")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What belongs to one call: rows, model, device, outputs. A resumed run may have others."""

    data: Any = option(None, "source", "training rows: JSON Lines file, list, DataFrame or text")
    eval_data: Any = option(None, "source", "held-out rows; replaces --val-split")
    model_size: str | None = option(None, "text", "compared with the file, for example 8B")
    eval_every: int | None = option(None, "integer", "steps between evaluations; about ten in a run", low=1, high=10**9)
    gradient_checkpointing: Switch = option(
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
    config: Any = option(None, "source", "a config.json that settles what the file does not")
    overrides: Mapping[str, Any] | None = option(None, "pairs", "field=value, settles one architecture field")


@dataclass(frozen=True, kw_only=True)
class SettledRecipe:
    """A recipe without open choices; None means "no limit" (`max_steps`) and "the checkpoint's" (`chat_template`)."""

    method: str
    rank: int
    alpha: float
    lora_dropout: float
    target_modules: str | tuple[str, ...]
    quantize_nf4: bool
    val_split: float
    task: str
    max_seq_len: int
    learning_rate: float
    epochs: int
    max_steps: int | None
    batch_size: int
    micro_batch_tokens: int
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    seed: int
    optimizer: str
    gradient_checkpointing: str
    dtype: str
    chat_template: str | None

    @property
    def trains_adapter(self) -> bool:
        return self.method != "full"

    def to_json(self) -> dict[str, Any]:
        targets = self.target_modules
        return {**vars(self), "target_modules": targets if isinstance(targets, str) else list(targets)}

    def identity(self) -> dict[str, Any]:
        """What decides which numbers come out: a saved state may only be resumed with an equal one."""
        return {name: value for name, value in self.to_json().items() if name != "gradient_checkpointing"}


_ORDER = """
    method rank alpha lora_dropout target_modules quantize_nf4 data eval_data val_split task model_size max_seq_len
    learning_rate epochs max_steps batch_size micro_batch_tokens eval_every warmup_ratio weight_decay max_grad_norm seed
    optimizer gradient_checkpointing output output_dtype adapter_only force resume plan verbose device dtype config
    overrides chat_template
""".split()
"""In which help texts and documents list the options."""
_ALL = {**options_of(Recipe), **options_of(RunOptions)}
OPTIONS: Mapping[str, Option] = {name: _ALL[name] for name in _ORDER}


def recipe_document(recipe: SettledRecipe, options: RunOptions) -> dict[str, Any]:
    """Every option as JSON; rows given as objects are described, not copied."""
    config = dict(options.config) if isinstance(options.config, Mapping) else describe_source(options.config)
    found = {
        **vars(options),
        **recipe.to_json(),
        "data": describe_source(options.data),
        "eval_data": describe_source(options.eval_data),
        "config": config,
        "overrides": dict(options.overrides or {}),
    }
    return {name: found[name] for name in OPTIONS}


def describe_source(value: Any) -> Any:
    """Where rows come from, in words that fit into a recipe file."""
    if value is None or isinstance(value, PathLike):
        return None if value is None else fspath(value)
    if isinstance(value, str):
        return value if not value.lstrip().startswith("{") else f"{len(value.strip().splitlines())} rows of text"
    if hasattr(value, "columns"):
        return f"DataFrame of {len(value)} rows"
    return f"{type(value).__name__} of {len(value)} rows" if hasattr(value, "__len__") else type(value).__name__
