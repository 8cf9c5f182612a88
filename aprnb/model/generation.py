"""Generation with a loaded model: token by token, until an end token, a stop text or an interrupt."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    StoppingCriteria,
    StoppingCriteriaList,
)

from aprnb.errors import AprnbError, out_of_memory_in
from aprnb.model.answer import Generation
from aprnb.model.answer_text import AnswerText
from aprnb.model.decoded_weights import decoded_weights
from aprnb.model.prompt import ENCODE_S, Prompt, fit_prompt, read_prompt
from aprnb.model.sampling import Sampling, choose_sampling
from aprnb.phases import OnPhase, Phase, silent
from aprnb.tokenizer.end_tokens import config_end_ids
from aprnb.tokenizer.sandbox.tokenizer_process import interruptible, library_errors


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompt: str,
    *,
    raw: bool = False,
    system: str | None = None,
    max_new_tokens: int | None = None,
    stop: str | Iterable[str] = (),
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    seed: int | None = None,
    on_text: Callable[[str], object] | None = None,
    on_phase: OnPhase | None = None,
) -> Generation:
    """Answer a prompt, with the most likely token at each step unless an argument asks for sampling.

    The answer ends at any token that the tokenizer, the model's generation config or the chat template (after an
    assistant message) has as its end. KeyboardInterrupt ends it too; what was generated is returned. The sampling
    settings of the model's generation config are not used. NF4 weights on a CPU are decoded once for the answer, where
    the memory allows it.

    Args:
        model: a model from `aprnb.load`; it is in evaluation mode during the call.
        tokenizer: its tokenizer.
        prompt: the user's message.
        raw: use `prompt` without the chat template.
        system: a system message in front of the prompt; not with `raw`.
        max_new_tokens: stop after this many tokens; None for 256, or what the model's context leaves.
        stop: texts at which the answer ends; they are not part of it. A special token counts too.
        temperature: divides the logits before sampling; below 1e-5 the most likely token is taken.
        top_p: sample from the most likely tokens with this total probability.
        top_k: sample from this many most likely tokens.
        min_p: sample from tokens with at least this fraction of the largest probability.
        repetition_penalty: divides the logits of tokens that occurred; above 1 they become less likely.
        seed: of sampling; None draws one, which the result has.
        on_text: called with each part of the text, in whole characters, as soon as it is certain.
        on_phase: called with a `Phase` before work that takes time: reading the prompt.

    Returns:
        The `Generation`: prompt as the model saw it, new token ids, their text, and why it stopped.

    Raises:
        UsageProblem: the prompt has no tokens, or with the answer more than the model's positions; an argument is out
            of range.
        TokenizerError: the tokenizer cannot encode the prompt, or has no chat template and `raw` is not set.
        AprnbError: a logit is NaN, as after an overflow in float16.
        OutOfMemory: the device has no room for the keys and values of so many tokens.

    Example:
        >>> model, tokenizer = aprnb.load("pocket-qwen3.apr", device="cpu")
        >>> answer = aprnb.generate(model, tokenizer, "Spell cow.", max_new_tokens=8)
        >>> answer.text, answer.stop_reason
        ('c o w', 'eos')
    """
    sampling = choose_sampling(temperature, top_p, top_k, min_p, repetition_penalty, seed)
    asked = read_prompt(tokenizer, prompt, raw=raw, system=system, stop=stop)
    asked = fit_prompt(asked, model.config.max_position_embeddings, max_new_tokens, _end_ids(model))
    return run_prompt(model, tokenizer, asked, sampling, on_text or _ignore, on_phase or silent)


def run_prompt(
    model: PreTrainedModel,
    tokenizer: Any,
    prompt: Prompt,
    sampling: Sampling,
    on_text: Callable[[str], object],
    on_phase: OnPhase = silent,
    notices: tuple[str, ...] = (),
) -> Generation:
    """The answer to a prepared prompt, passed to `on_text` part by part; `tokenizer` only decodes.

    `notices` are facts about the file for the result.
    """
    on_phase(Phase(f"reading the prompt, {len(prompt.ids):,} tokens"))
    answer = AnswerText(prompt, _decoder(tokenizer), on_text)
    began_s = time.perf_counter()
    watch = _Watch(answer)
    notice = None
    try:
        enough = out_of_memory_in("during generation", "give a shorter prompt, or a smaller --max-new-tokens")
        with enough, decoded_weights(model) as notice, _evaluating(model), _seeded(model, sampling.seed):
            _generate(model, prompt, sampling, tokenizer.pad_token_id, watch)
    except KeyboardInterrupt:
        answer.interrupt()
    answer.finish()
    return Generation(
        prompt=prompt.text,
        ids=tuple(answer.ids),
        text=answer.text,
        stop_reason=answer.reason,
        stop_id=answer.stop_id,
        stop_text=answer.stop_text if answer.reason != "eos" else tokenizer.convert_ids_to_tokens(answer.stop_id),
        prompt_tokens=len(prompt.ids),
        seed=sampling.seed,
        notices=(*notices, *((notice,) if notice else ())),
        first_token_s=watch.first_s and watch.first_s - began_s,
        seconds=time.perf_counter() - began_s,
    )


def _decoder(tokenizer: Any) -> Callable[[list[int]], str]:
    """Decodes without special tokens; in a thread where a regular expression of the file may take long."""
    found = "the tokenizer cannot decode the answer"
    decoder = tokenizer.backend_tokenizer.decoder
    may_take_long = decoder is not None and b'"Regex"' in decoder.__getstate__()

    def decode(ids: list[int]) -> str:
        work = partial(tokenizer.decode, ids, skip_special_tokens=True)
        if may_take_long:
            return interruptible(work, found, ENCODE_S)
        with library_errors(found):
            return str(work())

    return decode


def _generate(model: Any, prompt: Prompt, sampling: Sampling, pad_id: int | None, watch: _Watch) -> None:
    ends = sorted(prompt.end_ids)
    settings: dict[str, Any] = {"num_beams": 1, "do_sample": sampling.seed is not None}
    if settings["do_sample"]:
        # Whatever is left out here would come from the model's own generation config.
        settings |= {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
        settings |= {"min_p": sampling.min_p, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0}
    config = GenerationConfig(
        max_new_tokens=prompt.max_new_tokens,
        repetition_penalty=sampling.repetition_penalty,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if pad_id is None and ends else pad_id,
        **settings,
    )
    ids = torch.tensor([prompt.ids], device=model.device)
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        generation_config=config,
        logits_processor=LogitsProcessorList([_RequireNumbers()]),
        stopping_criteria=StoppingCriteriaList([watch]),
    )


class _Watch(StoppingCriteria):
    """Hands each new token to the answer; it is called after every one."""

    def __init__(self, answer: AnswerText) -> None:
        self._answer = answer
        self.first_s: float | None = None

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        self.first_s = self.first_s or time.perf_counter()
        ends = self._answer.push(int(input_ids[0, -1]))
        return torch.full((1,), ends, device=input_ids.device)


class _RequireNumbers(LogitsProcessor):
    """With NaN every token is as likely as another: greedy decoding then repeats the first token of the vocabulary."""

    def __call__(self, _: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if scores.isnan().any():
            raise AprnbError("the model's logits are NaN", action="load the model in float32: --dtype f32")
        return scores


def _end_ids(model: Any) -> frozenset[int]:
    """What config and generation config name; `aprnb.load` puts all that the checkpoint names into the latter."""
    configs = (config.to_dict() for config in (model.config, model.generation_config))
    return frozenset().union(*(config_end_ids(config, model.config.vocab_size) for config in configs))


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@contextmanager
def _seeded(model: Any, seed: int | None) -> Iterator[None]:
    """Sampling draws from torch's global generator: its state is restored at the end."""
    if seed is None:
        yield
        return
    device = model.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _ignore(_: str) -> None: ...
