"""`aprnb.plan`: from a checkpoint and options to the plan of a run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch

from aprnb.phases import OnPhase, Phase, silent
from aprnb.tuning.planning.model_size import require_named
from aprnb.tuning.planning.plan import Plan
from aprnb.tuning.planning.recipe_reader import read_options
from aprnb.tuning.preparation import Preparation, prepare

Rows = str | os.PathLike[str] | Iterable[Any]
"""A path, JSON Lines as text, a list of rows, a DataFrame, or a Dataset."""


def plan(
    model: str | os.PathLike[str] | None = None,
    *,
    data: Rows | None = None,
    eval_data: Rows | None = None,
    columns: str | Mapping[str, str] | None = None,
    val_split: float | None = None,
    task: str = "instruct",
    train_on: Literal["answers", "last", "everything"] = "answers",
    method: Literal["auto", "lora", "qlora", "full"] = "auto",
    rank: int | None = None,
    alpha: float | None = None,
    lora_dropout: float | None = None,
    target_modules: str | Sequence[str] | None = None,
    start_adapter: str | os.PathLike[str] | None = None,
    quantize_nf4: bool = False,
    max_seq_len: int | None = None,
    too_long: Literal["truncate-prompt", "drop", "split", "error"] = "truncate-prompt",
    epochs: int = 3,
    max_steps: int | None = None,
    batch_size: int = 16,
    micro_batch_tokens: int | None = None,
    learning_rate: float | None = None,
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine",
    warmup_ratio: float = 0.03,
    weight_decay: float = 0.0,
    max_grad_norm: float = 1.0,
    optimizer: Literal["auto", "adamw", "adamw8bit", "paged_adamw8bit"] = "auto",
    gradient_checkpointing: Literal["auto", "on", "off"] = "auto",
    eval_every: int | None = None,
    seed: int = 42,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    model_size: str | None = None,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    chat_template: str | None = None,
    output: str | os.PathLike[str] | None = None,
    output_dtype: str | torch.dtype | None = None,
    adapter_only: bool = False,
    write_best: bool = False,
    force: bool = False,
    resume: bool | Literal["auto"] = False,
    save_every: int | str | None = None,
    keep: int = 2,
    track: Literal["tensorboard", "trackio", "wandb", "mlflow"] | None = None,
    verbose: bool = False,
    on_phase: OnPhase | None = None,
) -> Plan:
    """Show what `finetune` would do with the same arguments, before any weight is loaded; nothing is written.

    The arguments are those of `aprnb.finetune`, with the same meaning and defaults; `aprnb.finetune?` describes each.
    `output`, `force`, `resume` and `verbose` change nothing here.

    Args:
        model: an `.apr`, GGUF or safetensors file, or a Hugging Face folder.
        data: training rows, which are read to count tokens and steps.
        method: "lora", "qlora", "full", or "auto"; with `rank`, `optimizer` and `dtype` it decides the memory.
        max_seq_len: longest row in tokens; with `micro_batch_tokens` it decides the memory of the activations.
        epochs: how often each row is seen; with `batch_size` and `max_steps` it decides the number of steps.
        on_phase: called with a `Phase` before work that takes time.

    Returns:
        The `Plan` with the architecture and its sources, settled recipe, numbers of rows, tokens and steps,
        memory by term in bytes, seconds by phase, assumptions, warnings. `print(plan)` shows it, `plan.to_json()` is
        the document.

    Raises:
        AprnbError: what `aprnb.finetune` raises before it trains.

    Example:
        >>> plan = aprnb.plan("pocket-qwen3.apr", data="rows.jsonl", rank=8)
        >>> plan.total_steps
        18
    """
    given = {**locals(), "plan": True}
    base, on_phase = given.pop("model"), given.pop("on_phase") or silent
    recipe, options = read_options(given)
    return timed(prepare(require_named(base, options.model_size), recipe, options, on_phase), on_phase).plan


def timed(preparation: Preparation, on_phase: OnPhase) -> Preparation:
    """The preparation with the seconds of its plan; what is measured needs the training code."""
    on_phase(Phase("importing the training code"))
    from aprnb.tuning.timing.estimate import with_seconds

    return with_seconds(preparation, on_phase)
