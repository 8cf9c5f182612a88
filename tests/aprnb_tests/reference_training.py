"""A training written again in plain PyTorch, transformers and PEFT, as the documentation describes it.

Nothing of `aprnb` is imported. An explicit mask keeps the documents of a micro-batch apart, the whole matrix of logits
is computed, held-out rows are evaluated one by one, and clipping and learning rate are written out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

Messages = list[dict[str, str]]
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """The options of a run that decide its numbers, under their names in `aprnb.finetune`."""

    method: str
    rank: int | None = None
    alpha: float | None = None
    lora_dropout: float | None = None
    learning_rate: float = 3e-3
    epochs: int = 3
    batch_size: int = 5
    micro_batch_tokens: int = 96
    max_seq_len: int = 76
    warmup_ratio: float = 0.3
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    val_split: float = 0.2
    eval_every: int = 2
    seed: int = 7


@dataclasses.dataclass(frozen=True)
class Document:
    """`ids` [T]; `labels` [T] are the ids to predict, -100 elsewhere and at the first token."""

    ids: torch.Tensor
    labels: torch.Tensor


@dataclasses.dataclass
class Outcome:
    """Each step's loss, gradient norm before clipping, learning rate, tokens and labels; held-out losses by step."""

    steps: list[dict[str, float]]
    eval_losses: dict[int, float]
    weights: dict[str, torch.Tensor]


def encode(tokenizer: Any, messages: Messages, longest: int) -> Document:
    """Every answer with its end of turn is labelled: what follows the prompt that is opened for it.

    Of a long conversation the last tokens stay, and of its answers those that stay whole, behind one token at least.
    """
    answers = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    ids = _ids(tokenizer, tokenizer.apply_chat_template(messages[: answers[-1] + 1], tokenize=False))
    labels = torch.full((len(ids),), -100)
    start = max(0, len(ids) - longest)
    for at in answers:
        prompt = tokenizer.apply_chat_template(messages[:at], tokenize=False, add_generation_prompt=True)
        before, through = (_ids(tokenizer, prompt + end) for end in ("", messages[at]["content"] + "<|im_end|>"))
        assert ids[: len(through)] == through
        if len(before) > start:
            labels[len(before) : len(through)] = torch.tensor(through[len(before) :])
    return Document(torch.tensor(ids)[start:], labels[start:])


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def split(rows: Sequence[Messages], part: float, seed: int) -> tuple[list[Messages], list[Messages]]:
    """Held out are the rows, all different here, whose hashes with the seed are smallest."""

    def rank(messages: Messages) -> bytes:
        text = json.dumps({"messages": messages}, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(f"{seed}{text}\n".encode()).digest()

    held_out = sorted(rows, key=rank)[: max(1, round(part * len(rows)))]
    return [row for row in rows if row not in held_out], [row for row in rows if row in held_out]


def batches(documents: Sequence[Document], settings: Settings) -> Iterator[list[list[Document]]]:
    """The micro-batches of each step: shuffled by epoch, longest first into the first one with room."""
    for epoch in range(settings.epochs):
        order = np.random.RandomState([settings.seed, 0, epoch]).permutation(len(documents))
        for start in range(0, len(order), settings.batch_size):
            chosen = [documents[at] for at in order[start : start + settings.batch_size]]
            parts: list[list[Document]] = []
            for document in sorted(chosen, key=lambda document: -len(document.ids)):
                for part in parts:
                    if sum(len(other.ids) for other in part) + len(document.ids) <= settings.micro_batch_tokens:
                        part.append(document)
                        break
                else:
                    parts.append([document])
            yield parts


def summed_loss(model: Any, documents: Sequence[Document]) -> torch.Tensor:
    """Cross entropy over the labels of documents in one row, none of which sees another."""
    ids = torch.cat([document.ids for document in documents])
    labels = torch.cat([document.labels for document in documents])
    positions = torch.cat([torch.arange(len(document.ids)) for document in documents])
    owner = torch.cat([torch.full((len(document.ids),), at) for at, document in enumerate(documents)])
    seen = (owner[:, None] == owner[None]) & torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
    logits = model(input_ids=ids[None], position_ids=positions[None], attention_mask=mask, use_cache=False).logits[0]
    return cross_entropy(logits[:-1], labels[1:], ignore_index=-100, reduction="sum")


def build(folder: Path, settings: Settings) -> Any:
    """The model in float32, its matrices in NF4 for qlora, with fresh adapters unless all weights are trained."""
    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager"}
    if settings.method == "qlora":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(folder, **options)
    for module in model.modules():  # bitsandbytes repacks for inference, and evaluations then lose the gradients
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    if settings.method == "full":
        return model.requires_grad_(True)
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.lora_dropout, target_modules=LINEARS
    )
    torch.manual_seed(settings.seed)
    return get_peft_model(model, config)


def rate_of(step: int, total: int, settings: Settings) -> float:
    """Linear warm-up to the peak, then half a cosine, of which the last step is just above 0."""
    warmup = math.ceil(settings.warmup_ratio * total)
    if step <= warmup:
        return settings.learning_rate * step / warmup
    return settings.learning_rate * (1 + math.cos(math.pi * (step - warmup - 1) / (total - warmup))) / 2


def train(folder: Path, rows: Sequence[Messages], settings: Settings) -> Outcome:
    """The whole run."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    given, kept = split(rows, settings.val_split, settings.seed)
    documents, held_out = ([encode(tokenizer, row, settings.max_seq_len) for row in part] for part in (given, kept))
    model = build(folder, settings)
    torch.manual_seed(settings.seed)
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    optimizer = torch.optim.AdamW(
        [
            {"params": [one for one in trained.values() if one.ndim == 2], "weight_decay": settings.weight_decay},
            {"params": [one for one in trained.values() if one.ndim == 1], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.999), eps=1e-8, foreach=False,
    )  # fmt: skip
    outcome = Outcome([], {0: evaluate(model, held_out)}, {})
    plan = list(batches(documents, settings))
    for step, parts in enumerate(plan, 1):
        rate = rate_of(step, len(plan), settings)
        outcome.steps.append(take_step(model, optimizer, list(trained.values()), parts, rate, settings.max_grad_norm))
        if step % settings.eval_every == 0 or step == len(plan):
            outcome.eval_losses[step] = evaluate(model, held_out)
    outcome.weights.update({name.replace(".default", ""): one.detach() for name, one in trained.items()})
    return outcome


def take_step(
    model: Any, optimizer: Any, trained: list[torch.Tensor], parts: list[list[Document]], rate: float, most: float
) -> dict[str, float]:
    """Gradients of the mean loss over all labels of the step, clipped; then AdamW."""
    model.train()
    labels = sum(int((document.labels[1:] != -100).sum()) for part in parts for document in part)
    loss = 0.0
    for part in parts:
        share = summed_loss(model, part) / labels
        share.backward()
        loss += share.item()
    gradients = [one.grad for one in trained if one.grad is not None]
    norm = math.sqrt(sum(float(one.double().pow(2).sum()) for one in gradients))
    for one in gradients:
        one.mul_(min(1.0, most / norm))
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()
    tokens = sum(len(document.ids) for part in parts for document in part)
    return {"loss": loss, "grad_norm": norm, "learning_rate": rate, "tokens": tokens, "labelled_tokens": labels}


@torch.no_grad()
def evaluate(model: Any, documents: Sequence[Document]) -> float:
    """Mean over the labels of all documents, each alone."""
    model.eval()
    labels = sum(int((document.labels[1:] != -100).sum()) for document in documents)
    return sum(summed_loss(model, [document]).item() for document in documents) / labels
