"""A plan as a document: model, training, data, memory by term, then what is assumed and what to look out for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aprnb.display.document import Block, Cell, Column, Details, Document, Fields, Messages, Table
from aprnb.units import bytes_text, count_text

if TYPE_CHECKING:
    from aprnb.tuning.planning.plan import Plan

_TERMS = {
    "weights": "the base",
    "adapters": "LoRA matrices in float32",
    "gradients": "float32, one per trainable parameter",
    "optimizer": "AdamW's two moments",
    "activations": "of the largest micro-batch",
    "logits": "one chunk of labelled positions",
    "total": "beside Python and its libraries",
}


def plan_document(plan: Plan) -> Document:
    """What `--plan` shows."""
    memory = plan.memory.to_json()
    rows = tuple((name, bytes_text(memory[name]), note) for name, note in _TERMS.items())
    blocks: list[Block] = [
        Fields((*_model_rows(plan), *_training_rows(plan), *_data_rows(plan))),
        Table(
            "Memory for tensors at the peak of a step", (Column("term"), Column("size", "right"), Column("what")), rows
        ),
        Details("Architecture", (Fields(_architecture_rows(plan)),)),
        Details("Recipe", (Fields(tuple((name, str(value), "") for name, value in plan.recipe.to_json().items())),)),
    ]
    if plan.assumptions:
        blocks.append(Messages("assumption", plan.assumptions))
    if plan.warnings:
        blocks.append(Messages("warning", plan.warnings))
    return Document("Plan", "warning" if plan.warnings else "ok", tuple(blocks))


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
    adapters = f"rank {recipe.rank}, alpha {recipe.scale:g}" if recipe.trains_adapter else "all weights"
    rate = f"{recipe.learning_rate:g}, warm-up {recipe.warmup_ratio:.0%}, cosine"
    return (
        ("method", recipe.method, adapters),
        ("steps", plan.steps, f"{_extent(plan)}, {recipe.batch_size} rows per step"),
        ("learning rate", rate, f"{recipe.optimizer}, gradient norm at most {recipe.max_grad_norm:g}"),
        ("device", facts.device, f"{facts.name}; {bytes_text(facts.available_bytes)} free"),
        ("precision", facts.dtype, attention),
        ("micro-batch", f"up to {recipe.micro_batch_tokens} tokens", f"largest here {largest}; packed"),
    )


def _extent(plan: Plan) -> str:
    """`3 epochs`, or how much of one a limit leaves."""
    whole = plan.recipe.epochs * -(-plan.rows // plan.recipe.batch_size)
    return (
        f"{plan.recipe.epochs} epochs"
        if plan.steps >= whole
        else f"--max-steps, of {whole} in {plan.recipe.epochs} epochs"
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


def _architecture_rows(plan: Plan) -> tuple[tuple[str, Cell, str], ...]:
    return tuple((name, str(field["value"]), field["source"]) for name, field in plan.architecture.to_json().items())
