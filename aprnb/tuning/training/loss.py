"""Answer-only loss without a full matrix of logits in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from aprnb.tuning.planning.memory import chunk_positions

Postprocess = Callable[[Tensor], Tensor]


def causal_model(model: Any) -> Any:
    """The causal language model, without the PEFT wrapper where there is one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def answer_loss(model: Any, input_ids: Tensor, position_ids: Tensor, labelled: Tensor) -> tuple[Tensor, int]:
    """Sum of the cross entropy over the labelled tokens of one packed row, and how many those are.

    `input_ids`, `position_ids` and `labelled` are [T]; positions restart at 0 with each document; `labelled[t]` says
    that token t is to be predicted (from t - 1, so never where a document begins). Neither an attention mask nor a KV
    cache is passed: either one would let packed documents attend to each other.
    """
    hidden = hidden_states(model, input_ids, position_ids)
    # A synchronisation point: the number of targets is a shape, so nonzero waits for the GPU.
    targets = torch.nonzero(labelled[1:] & (position_ids[1:] > 0)).squeeze(1) + 1
    base = causal_model(model)
    head, postprocess = base.get_output_embeddings(), logits_postprocess(base.config)
    return chunked_cross_entropy(hidden[targets - 1], head, input_ids[targets], postprocess), targets.numel()


def logits_postprocess(config: Any) -> Postprocess:
    """The function that the class's forward pass applies to the head's output.

    Granite divides it (`logits_scaling`), Gemma 2 caps it with tanh (`final_logit_softcapping`).
    """
    cap, divisor = getattr(config, "final_logit_softcapping", None), getattr(config, "logits_scaling", None)

    def postprocess(logits: Tensor) -> Tensor:
        logits = logits if divisor is None else logits / divisor
        return logits if cap is None else torch.tanh(logits / cap) * cap

    return postprocess


def hidden_states(model: Any, input_ids: Tensor, position_ids: Tensor) -> Tensor:
    """The decoder's last hidden states [T, hidden], before the head."""
    decoder = causal_model(model).get_decoder()
    output = decoder(input_ids=input_ids[None], position_ids=position_ids[None], use_cache=False)
    hidden: Tensor = output.last_hidden_state[0]
    return hidden


def chunked_cross_entropy(hidden: Tensor, head: Any, targets: Tensor, postprocess: Postprocess | None = None) -> Tensor:
    """Summed float32 cross entropy of `hidden` [N, hidden] against `targets` [N], head applied chunk by chunk.

    `postprocess` turns the head's output into logits. Each chunk is computed again in the backward pass, so one chunk's
    logits are in memory at a time.
    """

    def chunk_loss(rows: Tensor, wanted: Tensor) -> Tensor:
        logits = head(rows) if postprocess is None else postprocess(head(rows))
        return cross_entropy(logits.float(), wanted, reduction="sum")

    size = chunk_positions(head.weight.shape[0])
    total = hidden.new_zeros((), dtype=torch.float32)
    for rows, wanted in zip(hidden.split(size), targets.split(size), strict=True):
        if torch.is_grad_enabled():
            # The head has no dropout, so the random state need not be saved for each chunk.
            total = total + checkpoint(chunk_loss, rows, wanted, use_reentrant=False, preserve_rng_state=False)
        else:
            total = total + chunk_loss(rows, wanted)
    return total
