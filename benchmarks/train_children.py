"""The measured processes of train_vs_trl.py: `train_children.py prepare|aprnb|trl TASK`, one JSON line at the end."""

from __future__ import annotations

import json
import random
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from record import POCKET

# A Qwen3 of the shipped checkpoint's make with its tokenizer, large enough that matrices and not Python take the time.
SHAPE = {"hidden_size": 512, "num_layers": 8, "num_heads": 8, "num_kv_heads": 4, "intermediate_size": 1536,
         "head_dim": 64, "max_position_embeddings": 4096}  # fmt: skip
ARCHITECTURE = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4,
                "intermediate_size": 1536, "head_dim": 64, "max_position_embeddings": 4096}  # fmt: skip
WORDS = (
    "what",
    "is",
    "the",
    "opposite",
    "of",
    "hot",
    "cold",
    "one",
    "two",
    "three",
    "plus",
    "name",
    "colour",
    "grass",
    "sky",
)


def prepare(task: dict[str, Any]) -> dict[str, Any]:
    """Writes base.apr (seeded normal weights) and rows.jsonl (seeded words) into the folder."""
    import aprnb
    from aprnb.architecture import expected_tensors, resolve
    from aprnb.formats import TensorSource, write_apr
    from aprnb.formats.dtypes import BY_NAME

    folder, pocket = Path(task["folder"]), aprnb.open(POCKET)
    architecture = replace(resolve(pocket), **ARCHITECTURE)
    generator = np.random.default_rng(0)

    def weights(name: str, shape: tuple[int, ...]) -> bytes:
        norm = name.endswith("norm.weight")
        values = np.ones(shape) if norm else generator.standard_normal(shape) * 0.02
        return values.astype("<f4").tobytes()

    tensors = expected_tensors(architecture)
    sources = [TensorSource(name, BY_NAME["F32"], tensor.shape, lambda n=name, s=tensor.shape: weights(n, s))
               for name, tensor in tensors.items()]  # fmt: skip
    write_apr(folder / "base.apr", {**pocket.metadata, **SHAPE}, sources)
    choose = random.Random(0)
    rows = [
        {"instruction": sentence(choose, 8, 60), "response": sentence(choose, 20, 140)} for _ in range(task["rows"])
    ]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    lengths = sorted(len(text) for text in token_rows(folder, task)[0])
    parameters = sum(int(np.prod(tensor.shape)) for tensor in tensors.values())
    model = f"a Qwen3 of {parameters / 1e6:.1f} M parameters"
    return {"model": model, "tokens_per_row": f"{lengths[0]} to {lengths[-1]}"}


def sentence(choose: random.Random, shortest: int, longest: int) -> str:
    return " ".join(choose.choices(WORDS, k=choose.randint(shortest, longest)))


def token_rows(folder: Path, task: dict[str, Any]) -> tuple[list[list[int]], list[list[bool]]]:
    """The rows as both sides train them: ids, and which of them are labelled."""
    import aprnb
    from aprnb.tokenizer.choose import choose_tokenizer
    from aprnb.tuning.data.examples import encode_rows
    from aprnb.tuning.data.rows import read_rows

    checkpoint = aprnb.open(folder / "base.apr")
    tokenizer = choose_tokenizer(checkpoint, checkpoint.architecture, None).tokenizer
    examples = encode_rows(read_rows(str(folder / "rows.jsonl")).rows, tokenizer, task["length"]).examples
    return [one.input_ids.tolist() for one in examples], [one.labels_mask.tolist() for one in examples]


def by_aprnb(task: dict[str, Any]) -> dict[str, Any]:
    from aprnb.tuning.finetune import finetune
    from aprnb.tuning.training.events import StepEvent

    steps: list[StepEvent] = []
    folder = Path(task["folder"])
    finetune(
        folder / "base.apr", data=str(folder / "rows.jsonl"), method=task["method"], rank=task["rank"], epochs=3,
        max_steps=task["steps"], batch_size=task["batch"], max_seq_len=task["length"], val_split=0, dtype=task["dtype"],
        adapter_only=True, output=str(folder / "ours.apr"), force=True,
        listener=lambda event: steps.append(event) if isinstance(event, StepEvent) else None,
    )  # fmt: skip
    counted = steps[task["warm_up"] :]
    tokens, seconds = sum(s.tokens for s in counted), sum(s.tokens / s.tokens_per_s for s in counted)
    return {"tokens_per_s": tokens / seconds, "tokens": tokens, "smallest_grad_norm": min(s.grad_norm for s in steps),
            "losses": [s.loss for s in steps]}  # fmt: skip


def by_trl(task: dict[str, Any]) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    import aprnb

    folder = Path(task["folder"])
    quantize = "nf4" if task["method"] == "qlora" else None
    model, tokenizer = aprnb.load(folder / "base.apr", device="cpu", dtype=task["dtype"], quantize=quantize)
    ids, labelled = token_rows(folder, task)
    data = Dataset.from_dict({"input_ids": ids, "completion_mask": [[int(flag) for flag in row] for row in labelled]})
    clock = _Clock()

    class Watch(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.ends.append((time.perf_counter(), clock.tokens))

    class Counting(SFTTrainer):
        def compute_loss(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            mask = inputs.get("attention_mask")
            clock.tokens += int(mask.sum()) if mask is not None else inputs["input_ids"].numel()
            return super().compute_loss(model, inputs, *rest, **named)

    config = SFTConfig(
        **{"max_length": task["length"], **task["settings"]}, output_dir=str(folder / "trl"), max_steps=task["steps"],
        bf16=task["dtype"] == "bfloat16", use_cpu=not torch.cuda.is_available(), completion_only_loss=True,
        gradient_checkpointing=False, learning_rate=2e-4, logging_steps=1, report_to=[], save_strategy="no",
        disable_tqdm=True,
    )  # fmt: skip
    lora = LoraConfig(r=task["rank"], lora_alpha=2 * task["rank"], target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = Counting(model=model, args=config, train_dataset=data, processing_class=tokenizer, peft_config=lora,
                       callbacks=[Watch()])  # fmt: skip
    trainer.train()
    (start, before), (end, after) = clock.ends[task["warm_up"] - 1], clock.ends[-1]
    norms = [row["grad_norm"] for row in trainer.state.log_history if "grad_norm" in row]
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    speed = (after - before) / (end - start)
    return {"tokens_per_s": speed, "tokens": after - before, "smallest_grad_norm": min(norms), "losses": losses}


class _Clock:
    def __init__(self) -> None:
        self.tokens = 0
        self.ends: list[tuple[float, int]] = []


if __name__ == "__main__":
    kinds = {"prepare": prepare, "aprnb": by_aprnb, "trl": by_trl}
    print(json.dumps(kinds[sys.argv[1]](json.loads(sys.argv[2]))))
