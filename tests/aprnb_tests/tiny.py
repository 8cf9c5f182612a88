"""A tiny Qwen3 with seeded weights and rows whose answers follow a rule: everything a run needs, in milliseconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BitsAndBytesConfig, Qwen3Config, Qwen3ForCausalLM

from aprnb.tuning.data.example import Example, Examples
from aprnb.tuning.data.packing import Schedule, Step
from aprnb.tuning.planning.identity import Identity
from aprnb.tuning.planning.recipe import SettledRecipe
from aprnb.tuning.training.batches import Batches
from aprnb.tuning.training.events import Event
from aprnb.tuning.training.loop import train
from aprnb.tuning.training.lora import attach
from aprnb.tuning.training.loss import hidden_states
from aprnb.tuning.training.saving.state import RunState
from aprnb.tuning.training.saving.state_files import save_state

CPU = torch.device("cpu")
VOCABULARY = 96


def tiny_config() -> Qwen3Config:
    return Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=128, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=1, pad_token_id=None,
    )  # fmt: skip


def tiny_model(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(tiny_config()).eval()


def tiny_nf4_model() -> Any:
    """The same weights with the layers' linears in NF4."""
    state = tiny_model().state_dict()
    state.pop("lm_head.weight")
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    return Qwen3ForCausalLM.from_pretrained(
        None, config=tiny_config(), state_dict=state, dtype=torch.float32, quantization_config=quantization
    ).eval()


def tiny_examples(count: int = 12, seed: int = 1) -> Examples:
    """Rows of 8 to 20 tokens: a random question, then an answer that repeats its last token, then token 1."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        question = random.integers(2, VOCABULARY, random.integers(4, 14))
        answer = np.full(random.integers(3, 6), question[-1])
        ids = np.concatenate([question, answer, [1]]).astype(np.int32)
        labels = np.arange(len(ids)) >= len(question)
        rows.append(Example(ids, labels, f"row {number + 1}"))
    tokens = sum(len(row.input_ids) for row in rows)
    labelled = sum(int(row.labels_mask.sum()) for row in rows)
    return Examples(
        examples=tuple(rows), rows=count, rows_without_labels=0, tokens=tokens, labelled_tokens=labelled, truncated=0
    )


def schedule_of(examples: Examples, *steps: tuple[tuple[int, ...], ...]) -> Schedule:
    """A schedule with these steps, each a tuple of micro-batches of indices."""

    def step(parts: tuple[tuple[int, ...], ...]) -> Step:
        chosen = [index for part in parts for index in part]
        tokens, labels = (sum(counts[index] for index in chosen) for counts in (examples.lengths, examples.labelled))
        return Step(parts, epoch=0, tokens=tokens, labelled_tokens=labels)

    return Schedule(tuple(map(step, steps)))


def tiny_recipe(**options: Any) -> SettledRecipe:
    """A settled recipe of few, large steps."""
    settled: dict[str, Any] = {
        "method": "lora", "rank": 4, "alpha": 8.0, "lora_dropout": 0.0, "target_modules": "all-linear",
        "quantize_nf4": False, "val_split": 0.1, "task": "instruct", "max_seq_len": 64, "learning_rate": 5e-3,
        "train_on": "answers", "too_long": "truncate-prompt", "schedule": "cosine",
        "epochs": 3, "max_steps": None, "batch_size": 16, "micro_batch_tokens": 256, "warmup_ratio": 0.03,
        "weight_decay": 0.0, "max_grad_norm": 1.0, "seed": 42, "optimizer": "adamw", "gradient_checkpointing": "off",
        "dtype": "float32", "chat_template": None,
    }  # fmt: skip
    return SettledRecipe(**{**settled, **options})


def identity_of(recipe: SettledRecipe, total_steps: int = 1_000) -> Identity:
    return Identity(recipe.identity(), data="rows", base="base", total_steps=total_steps)


@dataclasses.dataclass
class TinyRun:
    """Arguments of one run; `events()` starts it."""

    recipe: SettledRecipe
    model: Any
    examples: Examples
    held_out: Examples | None
    schedule: Schedule
    eval_every: int = 2

    def events(self, **options: Any) -> Iterator[Event]:
        return train(
            self.model, self.examples, self.held_out, self.schedule, self.recipe,
            device=CPU, identity=identity_of(self.recipe), eval_every=self.eval_every, **options,
        )  # fmt: skip


def tiny_run(
    schedule: Schedule | None = None, model: Any = None, held_out: bool = True, eval_every: int = 2, **options: Any
) -> TinyRun:
    recipe = tiny_recipe(**options)
    adapted = attach(model or tiny_model(), recipe)
    examples = tiny_examples()
    schedule = schedule or schedule_of(examples, *3 * [((0, 1, 2), (3, 4, 5)), ((6, 7, 8, 9, 10, 11),)])
    return TinyRun(recipe, adapted, examples, tiny_examples(6, seed=2) if held_out else None, schedule, eval_every)


def saver(folder: Path) -> Callable[[RunState], Path]:
    return lambda state: save_state(folder, state)


def losses(events: Sequence[Event]) -> list[float]:
    return [event.loss for event in events if hasattr(event, "loss")]


def bytes_kept_for_backward(model: Any, dtype: torch.dtype, tokens: int, row: int = 64) -> int:
    """Bytes of what autograd keeps of one packed micro-batch, the parameters themselves left out."""
    held: dict[int, int] = {}
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            held[storage.data_ptr()] = storage.nbytes()
        kept.append(tensor)
        return tensor

    batches = Batches(model.train(), CPU, tokens, dtype)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), batches.precision():
        hidden_states(model, torch.arange(tokens) % VOCABULARY, torch.arange(tokens) % row)
    return sum(held.values())
