"""`aprnb.load`: from a path to a model on its device, with its tokenizer."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from aprnb.architecture import check_contract, resolve
from aprnb.formats import Checkpoint, open_checkpoint
from aprnb.model.build import build_model
from aprnb.model.device import place
from aprnb.phases import OnPhase, silent
from aprnb.tokenizer.choose import choose_tokenizer
from aprnb.tokenizer.end_tokens import checkpoint_end_ids


def load(
    path: str | os.PathLike[str] | Checkpoint,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    quantize: Literal["nf4", "int8"] | None = None,
    *,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    chat_template: str | None = None,
    on_phase: OnPhase | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load a checkpoint as a `transformers` model with its tokenizer.

    The tensors are compared with the architecture before a weight is loaded, and decoded one at a time.

    Args:
        path: an `.apr`, GGUF or safetensors file, a Hugging Face folder, or an open `Checkpoint`.
        device: "auto" (the GPU if there is one), "cpu", "cuda" or "cuda:N".
        dtype: "float32", "bfloat16", "float16" or a `torch.dtype`; "auto" is bfloat16 on a GPU or processor that
            has instructions for it, else float32.
        quantize: "nf4" or "int8" (bitsandbytes): of the linear layers; embedding, head and stacked experts keep
            `dtype`.
        config: a `config.json` (path or dict) for fields that the file does not settle.
        overrides: single fields, such as `{"rope_theta": 10000.0}`; they take precedence over `config`.
        chat_template: name or file of a template where the checkpoint has none.
        on_phase: called about twice a second with a `Phase`, what is done now: `print` shows "loading 120/291".

    Returns:
        The model on its device in evaluation mode, and the tokenizer.

    Raises:
        UsageProblem: an unknown or unavailable device, dtype or `quantize`; MissingExtra without torch.
        FileMissing: nothing is at `path`.
        CheckpointError: the file is malformed.
        ArchitectureError: the file contradicts itself or leaves a field open, or its family is not supported.
        ContractError: tensors do not match the architecture, or a weight is NaN or infinite in `dtype`.
        TokenizerError: the checkpoint has no usable tokenizer.
        OutOfMemory: the device has no room for the weights.

    Warns:
        UserWarning: a key that a config leaves out, and the default of its class that was taken.

    Example:
        >>> model, tokenizer = aprnb.load("pocket-qwen3.apr", device="cpu")
        >>> aprnb.generate(model, tokenizer, "Spell cow.").text
        'c o w'
    """
    with nullcontext(path) if isinstance(path, Checkpoint) else open_checkpoint(path) as checkpoint:
        report = check_contract(checkpoint, resolve(checkpoint, config=config, overrides=overrides))
        report.raise_for_violations()
        for text in report.architecture.left_out:
            warnings.warn(text, stacklevel=2)
        tokenizer = choose_tokenizer(checkpoint, report.architecture, chat_template).tokenizer
        model = build_model(checkpoint, report, place(device, dtype, quantize), on_phase or silent)
        ends = checkpoint_end_ids(checkpoint, report.architecture.vocab_size, config)
    model.generation_config.eos_token_id = sorted(ends) or None
    return model, tokenizer
