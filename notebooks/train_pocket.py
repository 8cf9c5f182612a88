"""Where `pocket-qwen3.apr` comes from: a tiny Qwen3 trained from scratch on `pocket-corpus.jsonl`, then converted.

    python notebooks/train_pocket.py pocket            # pocket/ (a Hugging Face folder) and pocket.apr next to it

589 questions and answers (sums in words, opposites, sounds, colours, capitals, spelling) in ChatML; the tokenizer is
trained on them too. Everything is seeded: the same versions of torch and tokenizers give the same file. The shipped
checkpoint was made the same way in another run; its weights are its own. Some minutes on a CPU.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

import aprnb

CORPUS = Path(__file__).with_name("pocket-corpus.jsonl")
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>'"
    " + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# How Qwen2 and Qwen3 split text before byte-level BPE, as their tokenizer.json says.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
VOCABULARY = 1024
"""Rows of the embedding; the tokenizer needs fewer, as with many published models."""
LEARNED = 824  # 256 bytes and at most 568 merges
BATCH, PEAK_RATE, WARM_UP = 64, 3e-3, 50


@dataclass(frozen=True)
class Row:
    """Token ids of one conversation; the answer (with its end token) starts at `answer`."""

    ids: tuple[int, ...]
    answer: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the Hugging Face folder to write; FOLDER.apr is written next to it")
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pairs = [(row["instruction"], row["response"]) for row in map(json.loads, CORPUS.read_text("utf-8").splitlines())]
    tokenizer = train_tokenizer(pairs)
    rows = [encoded(tokenizer, question, answer) for question, answer in pairs]
    torch.manual_seed(options.seed)
    model = Qwen3ForCausalLM(config(tokenizer))
    began = time.perf_counter()
    loss = train(model, rows, options.epochs, options.seed)
    save(model, tokenizer, options.folder)
    target = options.folder.with_name(f"{options.folder.name}.apr")
    aprnb.convert(options.folder, target, force=True)
    trained = time.perf_counter() - began
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {options.epochs} epochs in {trained:.0f} s")
    print(f"loss {loss:.4f}; {right(target, rows)} of {len(rows)} corpus questions answered to the letter by {target}")


def train_tokenizer(pairs: Sequence[tuple[str, str]]) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the corpus, with ChatML's tokens behind the learned ones."""
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = [text for pair in pairs for text in pair] + ["system", "user", "assistant"] * 50
    backend.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=LEARNED, initial_alphabet=sorted(alphabet), show_progress=False)
    )
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=SPECIALS[2], pad_token=SPECIALS[0], clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def encoded(tokenizer: PreTrainedTokenizerFast, question: str, answer: str) -> Row:
    prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    before = tokenizer(prompt, add_special_tokens=False).input_ids
    after = tokenizer(f"{answer}<|im_end|>", add_special_tokens=False).input_ids
    return Row((*before, *after), len(before))


def config(tokenizer: PreTrainedTokenizerFast) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=128, intermediate_size=384, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=512, rms_norm_eps=1e-6, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}, attention_bias=False, use_sliding_window=False,
        bos_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip


def batches(rows: Sequence[Row], seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Right-padded ids and labels (-100 where nothing is learned: prompt and padding), in a seeded order."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    for start in range(0, len(order), BATCH):
        chosen = [rows[number] for number in order[start : start + BATCH]]
        longest = max(len(row.ids) for row in chosen)
        ids = torch.zeros(len(chosen), longest, dtype=torch.long)
        labels = torch.full_like(ids, -100)
        for at, row in enumerate(chosen):
            ids[at, : len(row.ids)] = torch.tensor(row.ids)
            labels[at, row.answer : len(row.ids)] = torch.tensor(row.ids[row.answer :])
        yield ids, labels


def train(model: Qwen3ForCausalLM, rows: Sequence[Row], epochs: int, seed: int) -> float:
    """AdamW with warm-up and a cosine; returns the last epoch's mean loss. Padding is at the end: nothing sees it."""
    steps = epochs * math.ceil(len(rows) / BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=0.01, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARM_UP, 0.5 + 0.5 * math.cos(math.pi * step / steps))
    )
    losses: list[float] = []
    for epoch in range(epochs):
        losses.clear()
        for ids, labels in batches(rows, seed + epoch):
            logits = model(input_ids=ids, use_cache=False).logits
            loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """A Hugging Face folder with the weights in bfloat16."""
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def right(checkpoint: Path, rows: Sequence[Row]) -> int:
    """Rows whose greedy answer is the corpus's, token by token: the likeliest token at each place of the answer."""
    model, _ = aprnb.load(checkpoint, device="cpu", dtype="float32")
    found = 0
    for ids, labels in batches(rows, seed=0):
        guesses = model(input_ids=ids, use_cache=False).logits[:, :-1].argmax(-1)
        wanted = labels[:, 1:]
        found += int(((guesses == wanted) | (wanted == -100)).all(1).sum())
    return found


if __name__ == "__main__":
    main()
