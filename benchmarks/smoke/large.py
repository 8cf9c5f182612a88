"""The size of Qwen3-8B: seconds to load it, tokens per second of QLoRA and of generation, memory beside the plan."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

import aprnb
from aprnb.architecture import parameter_count
from aprnb.model.build import build_model
from aprnb.model.device import place
from aprnb.tuning.data.example import Example, Examples
from aprnb.tuning.planning.memory import adapted_shapes, adapter_parameters, linear_shapes, plan_memory
from aprnb.tuning.planning.recipe import SettledRecipe
from aprnb.tuning.training import gates
from aprnb.tuning.training.batches import Batches
from aprnb.tuning.training.checkpointing import set_checkpointing
from aprnb.tuning.training.lora import attach
from aprnb.tuning.training.optimizer import build_optimizer
from smoke.models import large_file
from smoke.profiling import profiled
from smoke.report import Facts, Smoke

MEASURED_STEPS = 2


def load_large(smoke: Smoke) -> None:
    """From the file to the module, in NF4 and unquantised, beside reading the file."""
    path = large_file(smoke)
    for quantize in ("nf4", None):
        with smoke.case(f"load_large.{quantize}") as facts:
            began = time.perf_counter()
            with path.open("rb", buffering=0) as file:
                while file.read(64 << 20):
                    pass
            facts |= {"read_s": round(time.perf_counter() - began, 2), "file_GB": round(path.stat().st_size / 1e9, 2)}
            began = time.perf_counter()
            model, _ = _load(smoke, quantize)
            smoke.sync()
            facts |= {"load_s": round(time.perf_counter() - began, 2), **smoke.memory()}
            facts["layers_in_4_bits"] = sum(type(module).__name__ == "Linear4bit" for module in model.modules())
            if quantize is None:
                _fingerprint(smoke, model.requires_grad_(False), facts)
            del model


def _load(smoke: Smoke, quantize: str | None) -> tuple[Any, Any]:
    checkpoint = aprnb.open(large_file(smoke))
    report = aprnb.check(checkpoint).raise_for_violations()
    return build_model(checkpoint, report, place(str(smoke.device), smoke.fast_dtype, quantize)), report.architecture


def _fingerprint(smoke: Smoke, model: Any, facts: Facts) -> None:
    smoke.clean()
    before, began = torch.cuda.memory_allocated() if smoke.on_gpu else 0, time.perf_counter()
    gates.frozen_fingerprint(model)
    smoke.sync()
    facts["fingerprint_s"] = round(time.perf_counter() - began, 2)
    if smoke.on_gpu:
        copied = torch.cuda.max_memory_allocated() - before
        facts["fingerprint_MiB"] = copied >> 20
        facts.require(fingerprint_copies_no_tensor=copied < 1 << 28)


def train_large(smoke: Smoke) -> None:
    """Steps of QLoRA; the same rows give the same loss however they are packed and whatever is recomputed."""
    row = 32 if smoke.is_tiny else 512
    model, architecture = _load(smoke, "nf4")
    recipe = _recipe(smoke)
    model = attach(model, recipe, adapted_shapes(architecture)).train()
    examples = _examples(4 if smoke.is_tiny else 16, row, architecture.vocab_size)
    first: dict[str, float] = {}
    for rows, checkpointing in smoke.while_time("train_large", [(4, "off"), (4, "on"), (1, "off"), (16, "on")]):
        with smoke.case(f"train_large.{rows * row}_tokens.checkpointing_{checkpointing}") as facts:
            set_checkpointing(model, checkpointing)
            batches = Batches(model, smoke.device, rows * row, getattr(torch, smoke.fast_dtype))
            facts |= _timed_steps(smoke, batches, examples, rows) | smoke.memory()
            facts["bf16_TFLOPs"] = round(facts["tokens_per_s"] * _flops_per_token(architecture) / 1e12, 3)
            planned = plan_memory(
                architecture, parameter_count(architecture), adapter_parameters(architecture, recipe.rank),
                method="qlora", dtype=smoke.fast_dtype, optimizer="adamw", checkpointing=checkpointing == "on",
                micro_batch_tokens=rows * row, device=smoke.device.type,
            ).total  # fmt: skip
            facts["planned_GiB"] = round(planned / 2**30, 2)
            facts.require(same_loss=abs(facts["loss"] - first.setdefault("loss", facts["loss"])) < 0.02)
            if smoke.on_gpu:
                facts.require(within_the_plan=facts["peak_allocated_GiB"] < 1.1 * facts["planned_GiB"])
            facts |= profiled(smoke, lambda batches=batches, rows=rows: _step(batches, examples, rows))
    model.zero_grad(set_to_none=True)
    _time_optimizers(smoke, model)
    _time_generation(smoke, model.eval())


def _recipe(smoke: Smoke) -> SettledRecipe:
    return SettledRecipe(
        method="qlora", rank=16, alpha=32.0, lora_dropout=0.0, target_modules="all-linear", quantize_nf4=True,
        val_split=0.0, task="instruct", train_on="answers", max_seq_len=512, too_long="truncate-prompt",
        learning_rate=1e-4, epochs=1, max_steps=None, batch_size=16, schedule="cosine",
        micro_batch_tokens=8192, warmup_ratio=0.0, weight_decay=0.0, max_grad_norm=1.0, seed=42, optimizer="adamw",
        gradient_checkpointing="off", dtype=smoke.fast_dtype, chat_template=None,
    )  # fmt: skip


def _examples(count: int, length: int, vocab_size: int) -> Examples:
    """Random tokens, of which the second half is labelled."""
    generator, labelled = np.random.default_rng(0), np.arange(length) >= length // 2
    rows = tuple(
        Example(generator.integers(0, vocab_size, length).astype(np.int32), labelled, f"row {number}")
        for number in range(count)
    )
    return Examples(rows, count, 0, count * length, count * int(labelled.sum()), 0)


def _step(batches: Batches, examples: Examples, rows: int) -> Any:
    """The gradients of all examples, `rows` at a time; the optimizer does not follow, so that each step is the same."""
    count = len(examples.examples)
    parts = [tuple(range(start, min(start + rows, count))) for start in range(0, count, rows)]
    work = batches.accumulate(examples, parts, "step", lambda: False)
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def _timed_steps(smoke: Smoke, batches: Batches, examples: Examples, rows: int) -> dict[str, Any]:
    seconds: list[float] = []
    for _ in range(1 + MEASURED_STEPS):
        smoke.sync()
        began = time.perf_counter()
        done = _step(batches, examples, rows)
        smoke.sync()
        seconds.append(time.perf_counter() - began)
    speed = MEASURED_STEPS * done.tokens / sum(seconds[1:])
    return {"loss": done.loss, "first_step_s": round(seconds[0], 2), "tokens_per_s": round(speed)}


def _flops_per_token(architecture: Any) -> float:
    """Forward and backward through frozen matrices: 2 + 2 for each weight; the head's for the labelled half."""
    linear = sum(rows * columns for shapes in linear_shapes(architecture).values() for rows, columns in shapes)
    return 4 * linear + 4 * architecture.vocab_size * architecture.hidden_size / 2


def _time_optimizers(smoke: Smoke, model: Any) -> None:
    for name in ("adamw", "adamw8bit", "paged_adamw8bit") if smoke.on_gpu else ("adamw",):
        with smoke.case(f"train_large.optimizer.{name}") as facts:
            optimizer = build_optimizer(model, replace(_recipe(smoke), optimizer=name), smoke.device)
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, 1e-3) if parameter.requires_grad else None
            facts |= {"step_ms": round(1000 * smoke.median_s(optimizer.step), 2), **smoke.memory()}
            del optimizer
            model.zero_grad(set_to_none=True)


@torch.no_grad()
def _time_generation(smoke: Smoke, model: Any) -> None:
    """Greedy answers of one prompt, with the adapter and without."""
    count = 8 if smoke.is_tiny else 48
    ids = torch.randint(0, 1000, (1, 64), device=smoke.device)
    settings = GenerationConfig(do_sample=False, max_new_tokens=count, min_new_tokens=count, pad_token_id=0)
    for name, context in (("adapted", nullcontext()), ("plain", model.disable_adapter())):
        with smoke.case(f"train_large.generation.{name}") as facts, context:
            seconds = smoke.median_s(
                lambda: model.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings
                ), 1,
            )  # fmt: skip
            facts["tokens_per_s"] = round(count / seconds, 1)


CHECKS = {"load_large": load_large, "train_large": train_large}
