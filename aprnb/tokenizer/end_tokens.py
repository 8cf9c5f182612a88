"""The tokens at which generation stops: those that a checkpoint names, and the chat template's end of turn (no torch).

A checkpoint names them in up to three places that need not agree: Llama 3.1 Instruct has one in its tokenizer's
config and three in its generation config; Gemma's tokenizer names `<eos>`, its answers end with `<end_of_turn>`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from aprnb.architecture.evidence.configs import read_config
from aprnb.architecture.resolve import sidecar_config
from aprnb.formats import Checkpoint
from aprnb.formats.huggingface.folder_files import GENERATION, KEPT_FILES
from aprnb.formats.source import is_file
from aprnb.printable import first_names, short
from aprnb.tokenizer.chat_template import Rendering, Request
from aprnb.tokenizer.tokenizer_files import sidecar_object

GENERATION_FILE = KEPT_FILES[GENERATION]

_MARK = "aprnb1answer2mark3"
"""An answer that templates copy unchanged and that no template contains."""
END_KEYS = ("tokenizer.eos_token_id", "tokenizer.eot_token_id", "tokenizer.eom_token_id")
"""Keys of `.apr` metadata for the tokens that GGUF files name as ends: of a text, of a turn, of a message."""


def stated_end_ids(metadata: Mapping[str, Any], vocab_size: int) -> AbstractSet[int]:
    """The ids that generation config, config and tokenizer name, in this order, each a number or a list of numbers.

    Ids outside the vocabulary, which a model cannot produce, are left out.
    """
    configs = (metadata.get(key) for key in (GENERATION, "hf_config"))
    named = [config.get("eos_token_id") for config in configs if isinstance(config, Mapping)]
    named += [metadata.get(key) for key in END_KEYS]
    return dict.fromkeys(number for value in named for number in _numbers(value, vocab_size)).keys()


def end_notes(metadata: Mapping[str, Any], vocab_size: int) -> tuple[str, ...]:
    """A warning for each of the configs that names end tokens which the model cannot produce: they are not used."""
    notes = []
    for key, name in ((GENERATION, GENERATION_FILE), ("hf_config", "config.json")):
        config = metadata.get(key)
        value = config.get("eos_token_id") if isinstance(config, Mapping) else None
        each = value if isinstance(value, list) else [] if value is None else [value]
        odd = [short(one) for one in each if not list(_numbers(one, vocab_size))]
        if odd:
            notes.append(
                f"{name} eos_token_id has {first_names(odd, 5)}, no id of the {vocab_size:,} tokens: it is not used"
            )
    return tuple(notes)


def checkpoint_end_ids(
    checkpoint: Checkpoint, vocab_size: int, config: str | os.PathLike[str] | Mapping[str, Any] | None = None
) -> AbstractSet[int]:
    """Those of the checkpoint, of configs next to its file, and of a `config` that was given for it, in this order.

    Raises TokenizerError for a generation config next to the file that cannot be read.
    """
    others = list(_sidecars(checkpoint)) if checkpoint.format in ("apr", "gguf") else []
    others += [] if config is None else [read_config(config)[0]]
    found = [*stated_end_ids(checkpoint.metadata, vocab_size)]
    found += [number for each in others for number in _numbers(each.get("eos_token_id"), vocab_size)]
    return dict.fromkeys(found).keys()


def _sidecars(checkpoint: Checkpoint) -> Iterator[Mapping[str, Any]]:
    """The config that the architecture is read from, and the generation config, unless the file has one.

    Next to a config of another model, a generation config without the file's name is the other model's too.
    """
    folder, stem = checkpoint.path.parent, checkpoint.path.stem
    own = sidecar_config(checkpoint)
    if own is not None:
        yield own
    if isinstance(checkpoint.metadata.get(GENERATION), Mapping):
        return
    foreign = own is None and is_file(folder / "config.json")
    names = [f"{stem}.{GENERATION_FILE}", *([] if foreign else [GENERATION_FILE])]
    path = next((folder / name for name in names if is_file(folder / name)), None)
    if path is not None:
        yield sidecar_object(path)


def config_end_ids(config: Mapping[str, Any], vocab_size: int) -> AbstractSet[int]:
    """The ids that a config or generation config names, in its order."""
    return dict.fromkeys(_numbers(config.get("eos_token_id"), vocab_size)).keys()


def answered_turn() -> Request:
    """A conversation for `end_of_turn`, to be rendered by the chat template."""
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": _MARK}]
    return Request(messages, add_generation_prompt=False)


def end_of_turn(rendering: Rendering, tokenizer: Any) -> int | None:
    """The id of the added token that the template writes after an answer; white space in between is skipped.

    None where the template writes none, or rejects the conversation.
    """
    _, mark, rest = (rendering.text or "").rpartition(_MARK)
    following = rest.lstrip() if mark else ""
    added = ((number, token.content) for number, token in tokenizer.added_tokens_decoder.items())
    found = [(len(text), number) for number, text in added if text and following.startswith(text)]
    return max(found)[1] if found else None


def _numbers(value: Any, vocab_size: int) -> Iterator[int]:
    each = value if isinstance(value, list | tuple) else (value,)
    return (number for number in each if type(number) is int and 0 <= number < vocab_size)
