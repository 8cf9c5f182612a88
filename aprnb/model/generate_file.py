"""From a path to an answer: everything that can be wrong with file or prompt is found before torch is imported."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aprnb.architecture import check_contract, resolve
from aprnb.formats import open_checkpoint
from aprnb.model.answer import Generation
from aprnb.model.prompt import fit_prompt, read_prompt
from aprnb.model.sampling import Sampling
from aprnb.phases import IMPORTING, OnPhase, Phase
from aprnb.tokenizer.choose import choose_tokenizer
from aprnb.tokenizer.end_tokens import checkpoint_end_ids


def generate_file(
    path: str | os.PathLike[str],
    prompt: str,
    sampling: Sampling,
    *,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    chat_template: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    raw: bool = False,
    system: str | None = None,
    max_new_tokens: int | None = None,
    stop: Iterable[str] = (),
    on_text: Callable[[str], object],
    on_phase: OnPhase,
) -> Generation:
    """The answer of the model in `path`; arguments and errors are those of `load` and `generate`.

    `on_phase` is called before and during work that takes time.
    """
    with open_checkpoint(path) as checkpoint:
        on_phase(Phase("reading the checkpoint"))
        report = check_contract(checkpoint, resolve(checkpoint, config=config, overrides=overrides))
        report.raise_for_violations()
        architecture = report.architecture
        choice = choose_tokenizer(checkpoint, architecture, chat_template)
        tokenizer = choice.checkpoint_tokenizer
        asked = read_prompt(tokenizer, prompt, raw=raw, system=system, stop=stop)
        ends = checkpoint_end_ids(checkpoint, architecture.vocab_size, config)
        asked = fit_prompt(asked, architecture.max_position_embeddings, max_new_tokens, ends)
        on_phase(IMPORTING)
        from aprnb.model.build import build_model
        from aprnb.model.device import place
        from aprnb.model.generation import run_prompt

        model = build_model(checkpoint, report, place(device, dtype), on_phase)
    return run_prompt(
        model, tokenizer, asked, sampling, on_text, on_phase, (*architecture.left_out, *choice.warnings)
    )  # fmt: skip
