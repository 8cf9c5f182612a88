"""The card of a plan, made from its JSON alone: a stored plan shows the card that the run's plan showed (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprnb.architecture.architecture import field_rows
from aprnb.display.bundle import Displayed
from aprnb.display.document import Block, Cell, Column, Details, Document, Fields, Messages, Table
from aprnb.formats.json_files import read_object
from aprnb.tuning.planning.stored_object import StoredObject
from aprnb.units import bytes_text, count_text, duration_text

MAX_PLAN_BYTES = 16 << 20
_TERMS = {
    "weights": "the base",
    "adapters": "LoRA matrices in float32",
    "gradients": "float32, one per trainable parameter",
    "optimizer": "AdamW's two moments",
    "activations": "of the largest micro-batch",
    "logits": "one chunk of labelled positions",
    "kernels": "compiled by oneDNN for each length of a micro-batch",
    "libraries": "Python, torch, transformers, PEFT",
    "checking": "what the check of the written model needs beyond a step",
    "total": "",
}
Rows = tuple[tuple[str, Cell, str], ...]


@dataclass(frozen=True)
class SavedPlan(Displayed):
    """The plan of a run as its folder keeps it; it shows the same card as the `Plan` of the run.

    Attributes:
        stored: the document of `Plan.to_json`.
        where: the file that it is from, for errors.
    """

    stored: Mapping[str, Any]
    where: str = "plan.json"

    def to_json(self) -> Mapping[str, Any]:
        """The stored document."""
        return self.stored

    def document(self) -> Document:
        """The card; raises CheckpointError where the stored document is damaged."""
        return plan_document(self.stored, self.where)


def read_plan(path: Path) -> SavedPlan:
    """The plan that a run stored at `path`.

    Raises FileMissing, or CheckpointError that names the key where the document is not a plan.
    """
    plan = SavedPlan(read_object(path, MAX_PLAN_BYTES), str(path))
    plan.document()
    return plan


def plan_document(stored: Mapping[str, Any], where: str = "the plan") -> Document:
    """The card of a plan's document: model, training, data, memory by term, architecture and recipe.

    Raises CheckpointError that names the key where `stored` is not such a document.
    """
    plan = StoredObject(stored, where)
    memory = plan.inner("memory_bytes")
    terms = tuple((name, bytes_text(memory.integer(name)), note) for name, note in _TERMS.items())
    recipe = tuple((name, str(value), "") for name, value in plan.inner("recipe").values.items())
    blocks: list[Block] = [
        Fields((*_model_rows(plan), *_training_rows(plan), *_data_rows(plan), *_time_rows(plan), *_file_rows(plan))),
        Table("Memory at the peak of the run", (Column("term"), Column("size", "right"), Column("what")), terms),
        Details("Architecture", (Fields(_architecture_rows(plan)),)),
        Details("Recipe", (Fields(recipe),)),
    ]
    assumptions, warnings = plan.texts("assumptions"), plan.texts("warnings")
    if assumptions:
        blocks.append(Messages("assumption", assumptions))
    if warnings:
        blocks.append(Messages("warning", warnings))
    return Document(f"Plan: {_summary(plan)}", "warning" if warnings else "ok", tuple(blocks))


def _summary(plan: StoredObject) -> str:
    """How long, how much memory of how much, what is written, as a total and by its endings.

    `≈ 6 min · 4.6 of 21 GiB · writes 1.2 GiB: x.apr, .adapter, .run`
    """
    needed, of = plan.inner("memory_bytes").integer("total"), plan.integer("memory_available_bytes")
    seconds = _seconds(plan)
    parts = [] if seconds is None else [f"≈ {duration_text(seconds.number('total'))}"]
    parts.append(f"{bytes_text(needed)} of {bytes_text(of)}")
    writes = plan.inner("writes")
    if writes.values:
        size = bytes_text(sum(writes.integer(path) for path in writes.values))
        first, *others = map(Path, writes.values)
        parts.append(f"writes {size}: {', '.join([first.name, *(path.suffix for path in others)])}")
    return " · ".join(parts)


def _seconds(plan: StoredObject) -> StoredObject | None:
    """Seconds by phase; plans of earlier versions have none."""
    return plan.inner("seconds") if plan.values.get("seconds") else None


def _time_rows(plan: StoredObject) -> Rows:
    """The total, and its phases."""
    seconds = _seconds(plan)
    if seconds is None:
        return ()
    phases = {name: seconds.number(name) for name in seconds.values if name != "total"}
    parts = ", ".join(f"{name} {duration_text(each)}" for name, each in phases.items() if each)
    return (("time", f"≈ {duration_text(seconds.number('total'))}", parts),)


def _architecture_rows(plan: StoredObject) -> Rows:
    architecture = plan.inner("architecture")
    fields = {name: architecture.inner(name) for name in architecture.values}
    return field_rows({name: (field.values.get("value"), field.text("source")) for name, field in fields.items()})


def _model_rows(plan: StoredObject) -> Rows:
    architecture, parameters = plan.inner("architecture"), plan.inner("parameters")
    layers, hidden = (architecture.inner(name).integer("value") for name in ("num_hidden_layers", "hidden_size"))
    total, trainable = parameters.integer("total", 1), parameters.integer("trainable")
    family = architecture.inner("model_type").text("value")
    return (
        ("model", f"{family}, {layers} layers, hidden {hidden}", "from the file"),
        ("parameters", count_text(total), "sum over the model's tensors"),
        ("trainable", count_text(trainable), f"{trainable / total:.2%} of them"),
        *_nf4_rows(plan),
    )


def _nf4_rows(plan: StoredObject) -> Rows:
    """What is in 4 bits and what is not, with QLoRA."""
    nf4 = plan.inner("nf4")
    inside, outside = nf4.integer("parameters"), nf4.integer("other_parameters")
    if not inside:
        return ()
    dtype, size, other = plan.text("dtype"), bytes_text(nf4.integer("bytes")), bytes_text(nf4.integer("other_bytes"))
    return (
        ("in 4 bits", count_text(inside), f"linear modules of the layers, {size} in NF4 with scales"),
        ("in 16 bits" if dtype != "float32" else "in 32 bits", count_text(outside),
         f"embedding, head, norms and what else is not a linear module, {other} in {dtype}"),
    )  # fmt: skip


def _training_rows(plan: StoredObject) -> Rows:
    recipe, largest = plan.inner("recipe"), plan.integer("largest_micro_batch_tokens")
    checkpointing, method = recipe.text("gradient_checkpointing"), recipe.text("method")
    adapters = f"rank {recipe.integer('rank')}, alpha {recipe.number('alpha'):g}" if method != "full" else "all weights"
    rate = f"{recipe.number('learning_rate'):g}, warm-up {recipe.number('warmup_ratio'):.0%}, {_schedule(recipe)}"
    norm = f"{recipe.text('optimizer')}, gradient norm at most {recipe.number('max_grad_norm'):g}"
    free = bytes_text(plan.integer("memory_available_bytes"))
    return (
        ("method", method, adapters),
        ("steps", plan.integer("steps"), f"{_extent(plan)}, {recipe.integer('batch_size', 1)} rows per step"),
        ("learning rate", rate, norm),
        ("device", plan.text("device"), f"{plan.text('device_name')}; {free} free"),
        ("precision", plan.text("dtype"), f"{plan.text('dtype_reason')}; gradient checkpointing {checkpointing}"),
        ("attention", plan.text("attention"), plan.text("attention_reason")),
        ("micro-batch", f"up to {recipe.integer('micro_batch_tokens')} tokens", f"largest here {largest}; packed"),
    )


def _schedule(recipe: StoredObject) -> str:
    return recipe.text("schedule") if "schedule" in recipe.values else "cosine"  # plans of earlier versions


def _extent(plan: StoredObject) -> str:
    """`3 epochs`, or the limit and the number of steps without it."""
    recipe = plan.inner("recipe")
    epochs, rows = recipe.integer("epochs"), plan.inner("data").integer("rows")
    whole = epochs * -(-rows // recipe.integer("batch_size", 1))
    return f"{epochs} epochs" if plan.integer("steps") >= whole else f"--max-steps; {epochs} epochs have {whole}"


def _data_rows(plan: StoredObject) -> Rows:
    data, tokenizer, length = plan.inner("data"), plan.inner("tokenizer"), plan.inner("recipe").integer("max_seq_len")
    without, cut = data.integer("rows_without_labels"), data.integer("rows_truncated")
    labelled, held_out = data.integer("labelled_tokens"), data.integer("held_out_labelled_tokens")
    known = data.text("rows_from") if "rows_from" in data.values else ""  # plans of earlier versions do not have it
    origin = f"{known}; " if known else ""
    return (
        ("rows", data.integer("rows"), f"{origin}{without} without a label, {cut} longer than {length} tokens"),
        *_length_rows(data),
        ("tokenizer", tokenizer.text("source"), tokenizer.text("note")),
        ("tokens", data.integer("tokens"), f"{labelled:,} of them labelled (answers)"),
        ("held out", data.integer("held_out_rows"), f"{held_out:,} labelled tokens"),
    )


def _length_rows(data: StoredObject) -> Rows:
    """The lengths of the examples as a small histogram; plans of earlier versions have none."""
    if "lengths" not in data.values:
        return ()
    lengths = data.inner("lengths")
    counts = lengths.integers("histogram")
    least, median, most = (lengths.integer(name) for name in ("least", "median", "most"))
    bars = "".join("▁▂▃▄▅▆▇█"[-(-7 * count // max(1, *counts))] for count in counts)
    return (("lengths", bars, f"{least} to {most} tokens, half of the rows up to {median}"),)


def _file_rows(plan: StoredObject) -> Rows:
    writes = plan.inner("writes")
    notes = {".apr": "the tuned model", ".adapter": "PEFT layout", ".run": "with all states that are kept"}
    return tuple(
        (
            "writes" if not number else "",
            path,
            f"{bytes_text(writes.integer(path))}, {notes.get(Path(path).suffix, '')}",
        )
        for number, path in enumerate(writes.values)
    )
