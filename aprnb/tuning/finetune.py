"""`aprnb.finetune`: from a checkpoint and options to a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from aprnb.tuning.plan_run import Rows, timed
from aprnb.tuning.planning.model_size import require_named
from aprnb.tuning.planning.recipe_reader import read_options
from aprnb.tuning.preparation import prepare, resumed
from aprnb.tuning.results.places import claimed
from aprnb.tuning.results.run import Run
from aprnb.tuning.starting import is_done, leave_as_it_is, saved_state, start
from aprnb.tuning.training.events import Listener, Planned, mean_step_s
from aprnb.tuning.training.interrupt import ending_as_interrupts


def finetune(
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
    listener: Listener | None = None,
) -> Run:
    """Fine-tune the checkpoint at `model` on rows of instructions and answers.

    The plan is reported to `listener` as `Planned` before any weight is loaded; the events of the run follow. What
    takes time is a `Phase`, also before the plan. In training the first SIGINT, SIGTERM or SIGHUP ends the run after
    the current micro-batch with its state saved (`run.status == "interrupted"`; `resume=True` continues it); a second
    SIGINT, and any of them elsewhere, stops it at once (`Interrupted`). None as a value: the option is not given.

    Args:
        model: an `.apr`, GGUF or safetensors file, or a Hugging Face folder.
        data: training rows: path of a JSON Lines, JSON, CSV, TSV or Parquet file, of a folder or pattern of such files,
            JSON Lines as text, a list of dicts, a DataFrame or a Dataset. A row has `instruction` and `response` (or
            `output`), optionally `system` and `input`; `messages` or `conversations`, optionally `tools`; `prompt` and
            `completion`; `text`, which is learned whole; or `input_ids`.
        eval_data: rows to evaluate on, in place of `val_split`.
        columns: the names of these keys in `data` and `eval_data`: {"instruction": "question", "response": "answer"};
            `role` and `content` for those of messages.
        val_split: part of the rows held out for evaluation, 0 to 0.9; 0.1 unless given.
        task: "instruct", the only one.
        train_on: which tokens are learned: "answers", only the "last" answer of each row, or "everything", prompts too.
        method: "lora" (Hu et al. 2021), "qlora" (base in NF4, Dettmers et al. 2023), "full", or "auto": lora where
            the base fits into memory, else qlora.
        rank: of the LoRA matrices; 16 unless given.
        alpha: of LoRA, whose change of a weight is alpha / rank · B·A; 2 × rank unless given.
        lora_dropout: in front of the LoRA matrices, 0 to 0.9; 0 unless given.
        target_modules: names of the linear modules that get an adapter; "all-linear" unless given.
        start_adapter: folder of a plain LoRA adapter of this base, which is trained on; it decides rank, alpha and
            target modules.
        quantize_nf4: the same as method "qlora".
        max_seq_len: longest row in tokens; 1024 or the model's limit unless given.
        too_long: of a longer row, "truncate-prompt" cuts the head and keeps the answer's end (a row without a prompt is
            split), "drop" leaves it out, "split" makes several of it, "error" stops.
        epochs: how often each row is seen.
        max_steps: stop after this many optimizer steps.
        batch_size: rows per optimizer step.
        micro_batch_tokens: tokens per forward pass; 512 on a CPU and 8192 on a GPU, at least `max_seq_len`,
            unless given.
        learning_rate: at its peak; 2e-4 (lora, qlora) or 2e-5 (full) unless given.
        schedule: after a linear warm-up the rate falls to 0 as a "cosine" or "linear", stays "constant", or stays and
            falls over the last fifth of the steps ("wsd").
        warmup_ratio: part of the steps with a rising rate.
        weight_decay: of matrices (not of norms and biases).
        max_grad_norm: the gradient's norm is clipped to it.
        optimizer: "auto" is AdamW in float32; the 8-bit ones need a CUDA GPU.
        gradient_checkpointing: recompute activations in the backward pass; "auto" where they do not fit into memory.
        eval_every: optimizer steps between evaluations; about ten evaluations unless given.
        seed: of split, order, LoRA matrices and dropout.
        device: "auto", "cpu", "cuda" or "cuda:N".
        dtype: of base and computation; "auto" is bfloat16 on a GPU or processor that has instructions for
            it, else float32; full training keeps the weights in float32.
        model_size: such as "8B"; compared with the file.
        config: a `config.json` (path or dict) for what the file does not say.
        overrides: single architecture fields, likewise.
        chat_template: name or file of a template where the checkpoint has none.
        output: the tuned model, NAME.apr, with NAME.adapter/ and NAME.run/ next to it; "MODEL-finetuned.apr" in the
            working folder unless given.
        output_dtype: of the tuned model; that of the base unless given, F16 for a quantised base.
        adapter_only: write no tuned model.
        write_best: write the weights of the lowest held-out loss, from their saved state, not those of the last step.
        force: overwrite what exists.
        resume: continue the interrupted run of the same output; "auto" continues it if there is one, else starts.
        save_every: optimizer steps between saved states, or a time such as "10min"; ten states in a run, and one
            every ten minutes, unless given. A state is also saved at the lowest held-out loss so far and at the end.
        keep: saved states to keep, besides the one with the lowest held-out loss.
        track: "tensorboard", "trackio", "wandb" or "mlflow": also pass the numbers of the run to it; it has to be
            installed.
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
    where, recipe, options = start(base, recipe, options)
    with ending_as_interrupts(), claimed(where, may_exist=bool(options.resume or options.force)):
        preparation = prepare(base, recipe, options, tell)
        state = saved_state(where, preparation) if options.resume else None
        if state and is_done(run := Run(where, preparation.plan), preparation, state):
            leave_as_it_is(run, preparation, state, tell)
            return run
        preparation = timed(preparation, tell)
        if state:
            preparation = resumed(preparation, state.step, mean_step_s(run.history.steps[: state.step]))
        tell(Planned(preparation.plan, where.run))
        run = Run(where, preparation.plan)
        from aprnb.tuning.execution import execute

        execute(run, preparation, state, tell)
    return run
