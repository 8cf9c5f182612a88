"""Options of fine-tuning: what determines the result, what belongs to one call, and the settled recipe (no torch).

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
    """The options that determine the numbers of a training.

    Each field is the argument of `aprnb.finetune` with the same name, unit and default. None and "auto" are open:
    method, model, device or memory decide.
    """

    method: str = option("method")
    rank: int | None = option("rank")
    alpha: float | None = option("alpha")
    lora_dropout: float | None = option("lora_dropout")
    target_modules: str | tuple[str, ...] | None = option("target_modules")
    quantize_nf4: bool = option("quantize_nf4")
    val_split: float | None = option("val_split")
    task: str = option("task")
    train_on: str = option("train_on")
    max_seq_len: int | None = option("max_seq_len")
    too_long: str = option("too_long")
    learning_rate: float | None = option("learning_rate")
    epochs: int = option("epochs")
    max_steps: int | None = option("max_steps")
    batch_size: int = option("batch_size")
    micro_batch_tokens: int | None = option("micro_batch_tokens")
    schedule: str = option("schedule")
    warmup_ratio: float = option("warmup_ratio")
    weight_decay: float = option("weight_decay")
    max_grad_norm: float = option("max_grad_norm")
    seed: int = option("seed")
    optimizer: str = option("optimizer")
    dtype: str = option("dtype")
    chat_template: str | None = option("chat_template")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of one call: rows, model, device, outputs. A resumed run may have others."""

    data: Any = option("data")
    eval_data: Any = option("eval_data")
    columns: Mapping[str, str] | None = option("columns")
    model_size: str | None = option("model_size")
    start_adapter: str | None = option("start_adapter")
    eval_every: int | None = option("eval_every")
    gradient_checkpointing: Switch = option("gradient_checkpointing")
    output: str | None = option("output")
    output_dtype: str | None = option("output_dtype")
    adapter_only: bool = option("adapter_only")
    write_best: bool = option("write_best")
    force: bool = option("force")
    resume: bool | Literal["auto"] = option("resume")
    save_every: str | None = option("save_every")
    keep: int = option("keep")
    track: str | None = option("track")
    plan: bool = option("plan")
    verbose: bool = option("verbose")
    device: str = option("device")
    config: Any = option("config")
    overrides: Mapping[str, Any] | None = option("overrides")


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
    train_on: str
    max_seq_len: int
    too_long: str
    learning_rate: float
    epochs: int
    max_steps: int | None
    batch_size: int
    micro_batch_tokens: int
    schedule: str
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
        """Whether the method is "lora" or "qlora"."""
        return self.method != "full"

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        targets = self.target_modules
        return {**vars(self), "target_modules": targets if isinstance(targets, str) else list(targets)}

    def identity(self) -> dict[str, Any]:
        """What determines the result: a saved state may only be resumed with an equal identity."""
        return {name: value for name, value in self.to_json().items() if name != "gradient_checkpointing"}


_ORDER = """
    method rank alpha lora_dropout target_modules start_adapter quantize_nf4 data eval_data columns val_split task
    model_size train_on max_seq_len too_long learning_rate epochs max_steps batch_size micro_batch_tokens eval_every
    schedule warmup_ratio weight_decay max_grad_norm seed optimizer gradient_checkpointing output output_dtype
    adapter_only write_best force resume save_every keep track plan verbose device dtype config overrides
    chat_template
""".split()
"""The order of the options in documents."""
_ALL = options_of(Recipe, RunOptions)
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
        "columns": dict(options.columns or {}),
    }
    return {name: found[name] for name in OPTIONS}


def describe_source(value: Any) -> Any:
    """The source of rows for a document: text, or paths with their weights."""
    from aprnb.tuning.data.sources.several import described, is_rows  # help, which reads the options, needs no numpy

    if (several := described(value)) is not None:
        return several
    if value is None or isinstance(value, PathLike):
        return None if value is None else fspath(value)
    if isinstance(value, str):
        return value if not is_rows(value) else f"{len(value.strip().splitlines())} rows of text"
    if hasattr(value, "columns"):
        return f"DataFrame of {len(value)} rows"
    return f"{type(value).__name__} of {len(value)} rows" if hasattr(value, "__len__") else type(value).__name__
