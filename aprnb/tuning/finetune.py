"""`aprnb.plan` and `aprnb.finetune`: from a checkpoint and options to the plan of a run, and to the run itself."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from aprnb.tuning.planning.plan import Plan
from aprnb.tuning.planning.recipe import Recipe, RunOptions
from aprnb.tuning.planning.recipe_reader import read_options
from aprnb.tuning.preparation import Preparation, prepare, require_named
from aprnb.tuning.results import artefacts
from aprnb.tuning.results.artefacts import Places
from aprnb.tuning.results.run import Run
from aprnb.tuning.training.events import Listener, Planned
from aprnb.tuning.training.state import RunState, load_state

_STATE_SLACK_BYTES = 64 << 20

Rows = str | os.PathLike[str] | Iterable[Any]
"""A path, JSON Lines as text, a list of rows, or a DataFrame."""


def plan(
    model: str | os.PathLike[str] | None = None,
    *,
    data: Rows | None = None,
    eval_data: Rows | None = None,
    val_split: float | None = None,
    task: str = "instruct",
    method: Literal["auto", "lora", "qlora", "full"] = "auto",
    rank: int | None = None,
    alpha: float | None = None,
    lora_dropout: float | None = None,
    target_modules: str | Sequence[str] | None = None,
    quantize_nf4: bool = False,
    max_seq_len: int | None = None,
    epochs: int = 3,
    max_steps: int | None = None,
    batch_size: int = 16,
    micro_batch_tokens: int | None = None,
    learning_rate: float | None = None,
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
    force: bool = False,
    resume: bool = False,
    verbose: bool = False,
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

    Returns:
        The `Plan` with the architecture and its sources, settled recipe, numbers of rows, tokens and steps,
        memory by term in bytes, assumptions, warnings. `print(plan)` shows it, `plan.to_json()` is the document.

    Raises:
        AprnbError: what `aprnb.finetune` raises before it trains.

    Example:
        >>> plan = aprnb.plan("pocket-qwen3.apr", data="rows.jsonl", rank=8)
        >>> plan.total_steps
        18
    """
    given = {**locals(), "plan": True}
    base = given.pop("model")
    recipe, options = read_options(given)
    return prepare(require_named(base, options.model_size), recipe, options).plan


def finetune(
    model: str | os.PathLike[str] | None = None,
    *,
    data: Rows | None = None,
    eval_data: Rows | None = None,
    val_split: float | None = None,
    task: str = "instruct",
    method: Literal["auto", "lora", "qlora", "full"] = "auto",
    rank: int | None = None,
    alpha: float | None = None,
    lora_dropout: float | None = None,
    target_modules: str | Sequence[str] | None = None,
    quantize_nf4: bool = False,
    max_seq_len: int | None = None,
    epochs: int = 3,
    max_steps: int | None = None,
    batch_size: int = 16,
    micro_batch_tokens: int | None = None,
    learning_rate: float | None = None,
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
    force: bool = False,
    resume: bool = False,
    verbose: bool = False,
    listener: Listener | None = None,
) -> Run:
    """Fine-tune the checkpoint at `model` on rows of instructions and answers.

    The plan is reported to `listener` as `Planned` before any weight is loaded; the events of the run follow. The first
    SIGINT ends the run after the current micro-batch with its state saved (`run.status == "interrupted"`; `resume=True`
    continues it), a second one raises `Interrupted`. None as a value means that the option is not given.

    Args:
        model: an `.apr`, GGUF or safetensors file, or a Hugging Face folder.
        data: training rows: path of a JSON Lines file, JSON Lines as text, a list of dicts, or a DataFrame. A row has
            `instruction` and `response`, optionally `system` and `input`; or `messages`.
        eval_data: rows to evaluate on, in place of `val_split`.
        val_split: part of the rows held out for evaluation, 0 to 0.9; 0.1 unless given.
        task: "instruct", the only one.
        method: "lora" (Hu et al. 2021), "qlora" (base in NF4, Dettmers et al. 2023), "full", or "auto": lora where
            the base fits into memory, else qlora.
        rank: of the LoRA matrices; 16 unless given.
        alpha: of LoRA, whose change of a weight is alpha / rank · B·A; 2 × rank unless given.
        lora_dropout: in front of the LoRA matrices, 0 to 0.9; 0 unless given.
        target_modules: names of the linear modules that get an adapter; "all-linear" unless given.
        quantize_nf4: the same as method "qlora".
        max_seq_len: longest row in tokens, longer ones are cut; 1024 or the model's limit unless given.
        epochs: how often each row is seen.
        max_steps: stop after this many optimizer steps.
        batch_size: rows per optimizer step.
        micro_batch_tokens: tokens per forward pass; 512 on a CPU and 8192 on a GPU, at least `max_seq_len`,
            unless given.
        learning_rate: at its peak; 2e-4 (lora, qlora) or 2e-5 (full) unless given. Warm-up is linear, decay a cosine.
        warmup_ratio: part of the steps with a rising rate.
        weight_decay: of matrices (not of norms and biases).
        max_grad_norm: the gradient's norm is clipped to it.
        optimizer: "auto" is AdamW in float32; the 8-bit ones need a CUDA GPU.
        gradient_checkpointing: recompute activations in the backward pass; "auto" where they do not fit into memory.
        eval_every: optimizer steps between evaluations; about ten evaluations unless given.
        seed: of split, order, LoRA matrices and dropout.
        device: "auto", "cpu", "cuda" or "cuda:N".
        dtype: of base and computation; "auto" is bfloat16 on a GPU that has it, else float32.
        model_size: such as "8B"; compared with the file.
        config: a `config.json` (path or dict) for what the file does not say.
        overrides: single architecture fields, likewise.
        chat_template: name or file of a template where the checkpoint has none.
        output: the tuned model, NAME.apr, with NAME.adapter/ and NAME.run/ next to it; "MODEL-finetuned.apr" in the
            working folder unless given.
        output_dtype: of the tuned model; that of the base unless given, F16 for a quantised base.
        adapter_only: write no tuned model.
        force: overwrite what exists.
        resume: continue the interrupted run of the same output.
        verbose: only recorded here; the command line then reports each step.
        listener: called with each event (`aprnb.tuning.training.events`).

    Returns:
        The `Run` with status, plan, metrics, files, and the tuned model for `run.generate`.

    Raises:
        UsageProblem: options that do not fit together, or that model or device do not support.
        AprnbError: FileMissing, CheckpointError, ArchitectureError, ContractError, TokenizerError and DataError for
            what cannot be read; OutputExists without `force`; GateError and TrainingError where training fails;
            Interrupted at the second SIGINT.

    Example:
        >>> run = aprnb.finetune("pocket-qwen3.apr", data="rows.jsonl", method="lora", output="tuned.apr")
        >>> run.status, run.output.name
        ('finished', 'tuned.apr')
    """
    given = dict(locals())
    tell = given.pop("listener") or (lambda _: None)
    base = given.pop("model")
    recipe, options = read_options(given)
    base = require_named(base, options.model_size)
    where = _free_places(base, recipe, options)
    preparation = prepare(base, recipe, options)
    tell(Planned(preparation.plan))
    state = _saved_state(where, preparation) if options.resume else None
    # Only now: a plan needs none of the modelling code, whose import takes longer than the plan.
    from aprnb.tuning.execution import execute

    run = Run(preparation.checkpoint.path, preparation.plan, where, list(state.metrics) if state else [])
    execute(run, preparation, state, tell)
    return run


def _free_places(base: str | os.PathLike[str], recipe: Recipe, options: RunOptions) -> Places:
    """The paths of the run's files; raises OutputExists where one exists and may not be replaced."""
    where = artefacts.places(options.output, Path(base))
    artefacts.require_free(
        where,
        writes_model=not options.adapter_only,
        writes_adapter=recipe.method != "full",
        force=options.force,
        resume=options.resume,
    )
    return where


def _saved_state(where: Places, preparation: Preparation) -> RunState:
    """AdamW keeps three float32 for each trained parameter; random numbers and headers take less than the slack."""
    most_bytes = 16 * preparation.plan.parameters_trainable + _STATE_SLACK_BYTES
    return load_state(where.state, preparation.identity, most_bytes, preparation.plan.total_steps)
