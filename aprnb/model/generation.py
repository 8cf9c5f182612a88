"""Greedy generation with a loaded model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, cast

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from aprnb.errors import UsageProblem
from aprnb.tokenizer.chat_template import render
from aprnb.tokenizer.sandbox.tokenizer_process import interruptible

_ENCODE_S = 60.0
"""For one prompt or answer; a published tokenizer takes milliseconds."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A generated answer; `str()` is its text.

    Attributes:
        prompt: the text that was tokenized, with the chat template applied.
        ids: the new token ids, the end token included.
        text: the new tokens as text, without special tokens.
    """

    prompt: str
    ids: tuple[int, ...]
    text: str
    exit_code: ClassVar[int] = 0

    def __str__(self) -> str:
        return self.text

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {"prompt": self.prompt, "ids": list(self.ids), "text": self.text}


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompt: str,
    *,
    raw: bool = False,
    system: str | None = None,
    max_new_tokens: int = 64,
) -> Generation:
    """Answer a prompt with the most likely token at each step (greedy decoding).

    Args:
        model: a model from `aprnb.load`; it is in evaluation mode during the call.
        tokenizer: its tokenizer.
        prompt: the user's message.
        raw: use `prompt` without the chat template.
        system: a system message in front of the prompt; not used with `raw`.
        max_new_tokens: stop after this many tokens, or at the tokenizer's end token.

    Returns:
        The `Generation` with the prompt as the model saw it, the new token ids, and their text.

    Raises:
        UsageProblem: the prompt has no tokens, or with the answer more than the model's positions.
        TokenizerError: the tokenizer cannot encode the prompt, or has no chat template and `raw` is not set.

    Example:
        >>> model, tokenizer = aprnb.load("pocket-qwen3.apr", device="cpu")
        >>> aprnb.generate(model, tokenizer, "Spell cow.", max_new_tokens=8).text
        'c o w'
    """
    _require_encodable(prompt)
    text = prompt if raw else chat_prompt(tokenizer, prompt, system)
    encode = partial(cast(Any, tokenizer), text, add_special_tokens=False, return_tensors="pt")
    ids = interruptible(encode, "the tokenizer cannot encode the prompt", _ENCODE_S).input_ids
    limit = model.config.max_position_embeddings
    if not ids.shape[1]:
        raise UsageProblem("the prompt has no tokens", expected="some text")
    if ids.shape[1] + max_new_tokens > limit:
        raise UsageProblem(
            f"prompt of {ids.shape[1]} tokens and {max_new_tokens} new ones", expected=f"at most {limit} positions"
        )
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
    )
    training = model.training
    model.eval()
    with torch.no_grad():
        ids = ids.to(model.device)
        output = cast(Any, model).generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    model.train(training)
    new = output[0, ids.shape[1] :].tolist()
    decode = partial(tokenizer.decode, new, skip_special_tokens=True)
    return Generation(text, tuple(new), str(interruptible(decode, "the tokenizer cannot decode the answer", _ENCODE_S)))


def _require_encodable(prompt: str) -> None:
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise UsageProblem("the prompt is not text: it contains half of a surrogate pair", expected="UTF-8") from None


def chat_prompt(tokenizer: PreTrainedTokenizerFast, prompt: str, system: str | None = None) -> str:
    """`prompt` as the user's message in the tokenizer's chat template, followed by the start of the answer."""
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    return render(tokenizer, messages, add_generation_prompt=True)
