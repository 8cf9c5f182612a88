"""The plan of a run: what it will train, on what, with how much memory, before any weight is loaded (no torch).

recipe, notes = settle.settle(recipe, checkpointing, architecture, facts)    every open choice made, each with a note
plan = make_plan.make_plan(report, recipe, options, examples, held_out, schedule, facts, notes)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprnb.architecture import Architecture
from aprnb.display.bundle import Displayed
from aprnb.display.document import Block, Cell, Column, Details, Document, Fields, Messages, Table
from aprnb.tuning.planning.device import DeviceFacts
from aprnb.tuning.planning.memory import MemoryPlan
from aprnb.tuning.planning.recipe import RunOptions, SettledRecipe, recipe_document
from aprnb.units import bytes_text, count_text

_TERMS = {
    "weights": "the base",
    "adapters": "LoRA matrices in float32",
    "gradients": "float32, one per trainable parameter",
    "optimizer": "AdamW's two moments",
    "activations": "of the largest micro-batch",
    "logits": "one chunk of labelled positions",
    "total": "without Python and its libraries",
}


@dataclass(frozen=True)
class Plan(Displayed):
    """What a run will do; `print(plan)` shows it, and so does the last expression of a notebook cell.

    Attributes:
        base: the checkpoint to tune.
        architecture: its `Architecture`.
        recipe: the training options, without open choices.
        options: those of the call: rows, outputs, evaluation.
        facts: device, its name and free memory in bytes, dtype of the computation.
        parameters_total: of the model, a tied head counted once.
        parameters_trainable: of the adapter, or of the model for the method "full".
        rows: given for training, after the split.
        rows_without_labels: of them, left out since no answer remains to learn.
        rows_truncated: of them, cut at `recipe.max_seq_len` tokens.
        tokens: of the rows that remain, once.
        labelled_tokens: the answers' part of them, on which the loss is computed.
        held_out_rows: to evaluate on.
        held_out_labelled_tokens: of these rows.
        total_steps: optimizer steps of the whole run.
        largest_micro_batch: in tokens.
        memory: bytes at the peak of a step, by term.
        assumptions: architecture fields and choices that no one stated.
        warnings: about file, data and memory.
        tokenizer: where it comes from, and how it compares with the embedding.
    """

    base: Path
    architecture: Architecture
    recipe: SettledRecipe
    options: RunOptions
    facts: DeviceFacts
    parameters_total: int
    parameters_trainable: int
    rows: int
    rows_without_labels: int
    rows_truncated: int
    tokens: int
    labelled_tokens: int
    held_out_rows: int
    held_out_labelled_tokens: int
    total_steps: int
    largest_micro_batch: int
    memory: MemoryPlan
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
    tokenizer: tuple[str, str] = ("", "")

    def to_json(self) -> dict[str, Any]:
        """The document of `aprnb plan --json`."""
        return {
            "architecture": self.architecture.to_json(),
            "method": self.recipe.method,
            "parameters": {"total": self.parameters_total, "trainable": self.parameters_trainable},
            "data": {
                "rows": self.rows,
                "rows_without_labels": self.rows_without_labels,
                "rows_truncated": self.rows_truncated,
                "tokens": self.tokens,
                "labelled_tokens": self.labelled_tokens,
                "held_out_rows": self.held_out_rows,
                "held_out_labelled_tokens": self.held_out_labelled_tokens,
            },
            "steps": self.total_steps,
            "memory_bytes": self.memory.to_json(),
            "memory_available_bytes": self.facts.available_bytes,
            "device": self.facts.device,
            "device_name": self.facts.name,
            "dtype": self.facts.dtype,
            "attention": self.architecture.attention,
            "recipe": recipe_document(self.recipe, self.options),
            "assumptions": list(self.assumptions),
            "warnings": list(self.warnings),
        }

    def document(self) -> Document:
        """The card: model, training, data, memory by term, architecture and recipe."""
        memory = self.memory.to_json()
        rows = tuple((name, bytes_text(memory[name]), note) for name, note in _TERMS.items())
        blocks: list[Block] = [
            Fields((*_model_rows(self), *_training_rows(self), *_data_rows(self))),
            Table(
                "Memory for tensors at the peak of a step",
                (Column("term"), Column("size", "right"), Column("what")),
                rows,
            ),
            Details("Architecture", (Fields(self.architecture.rows()),)),
            Details(
                "Recipe",
                (
                    Fields(
                        tuple(
                            (name, str(value), "") for name, value in recipe_document(self.recipe, self.options).items()
                        )
                    ),
                ),
            ),
        ]
        if self.assumptions:
            blocks.append(Messages("assumption", self.assumptions))
        if self.warnings:
            blocks.append(Messages("warning", self.warnings))
        return Document("Plan", "warning" if self.warnings else "ok", tuple(blocks))


def _model_rows(plan: Plan) -> tuple[tuple[str, Cell, str], ...]:
    model = plan.architecture
    share = plan.parameters_trainable / plan.parameters_total
    return (
        ("model", f"{model.model_type}, {model.num_hidden_layers} layers, hidden {model.hidden_size}", "from the file"),
        ("parameters", count_text(plan.parameters_total), "sum over the model's tensors"),
        ("trainable", count_text(plan.parameters_trainable), f"{share:.2%} of them"),
    )


def _training_rows(plan: Plan) -> tuple[tuple[str, Cell, str], ...]:
    recipe, facts, largest = plan.recipe, plan.facts, plan.largest_micro_batch
    attention = f"attention {plan.architecture.attention}, gradient checkpointing {recipe.gradient_checkpointing}"
    adapters = f"rank {recipe.rank}, alpha {recipe.alpha:g}" if recipe.trains_adapter else "all weights"
    rate = f"{recipe.learning_rate:g}, warm-up {recipe.warmup_ratio:.0%}, cosine"
    return (
        ("method", recipe.method, adapters),
        ("steps", plan.total_steps, f"{_extent(plan)}, {recipe.batch_size} rows per step"),
        ("learning rate", rate, f"{recipe.optimizer}, gradient norm at most {recipe.max_grad_norm:g}"),
        ("device", facts.device, f"{facts.name}; {bytes_text(facts.available_bytes)} free"),
        ("precision", facts.dtype, attention),
        ("micro-batch", f"up to {recipe.micro_batch_tokens} tokens", f"largest here {largest}; packed"),
    )


def _extent(plan: Plan) -> str:
    """`3 epochs`, or the limit and the number of steps without it."""
    whole = plan.recipe.epochs * -(-plan.rows // plan.recipe.batch_size)
    return (
        f"{plan.recipe.epochs} epochs"
        if plan.total_steps >= whole
        else f"--max-steps; {plan.recipe.epochs} epochs have {whole}"
    )


def _data_rows(plan: Plan) -> tuple[tuple[str, Cell, str], ...]:
    length = plan.recipe.max_seq_len
    dropped = f"{plan.rows_without_labels} without a label, {plan.rows_truncated} cut at {length} tokens"
    return (
        ("rows", plan.rows, dropped),
        ("tokenizer", *plan.tokenizer),
        ("tokens", plan.tokens, f"{plan.labelled_tokens:,} of them labelled (answers)"),
        ("held out", plan.held_out_rows, f"{plan.held_out_labelled_tokens:,} labelled tokens"),
    )
