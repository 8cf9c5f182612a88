"""Writes a `Modelfile` next to a GGUF file, in the syntax that Ollama documents (docs/modelfile.md of its source).

One instruction a line: NAME value; a value may be in double quotes, one of several lines in three.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from aprnb.architecture import Architecture
from aprnb.conversion.generation_settings import sampling_settings
from aprnb.conversion.ollama.go_template import go_template
from aprnb.conversion.ollama.turns import Turns, turns_or_none
from aprnb.errors import OutputExists, TokenizerError, UsageProblem
from aprnb.formats import Checkpoint
from aprnb.formats.atomic import write_text
from aprnb.formats.targets import require_writable
from aprnb.printable import is_visible, short
from aprnb.tokenizer.choose import choose_tokenizer
from aprnb.tokenizer.end_tokens import checkpoint_end_ids

MODELFILE = "Modelfile"
MOST_CONTEXT = 8192
"""Of `num_ctx`: Ollama reserves memory for all of it."""
GENERATION_CONFIG = "hf_generation_config"
_PARAMETERS = {
    "temperature": ("temperature", 0.0, 100.0), "top_p": ("top_p", 0.0, 1.0), "top_k": ("top_k", 0, 1 << 20),
    "min_p": ("min_p", 0.0, 1.0), "repetition_penalty": ("repeat_penalty", 0.0, 100.0),
}  # fmt: skip
"""Key of a generation config → Ollama's name, and the range of values that make sense."""
_ARGUMENTS = re.compile(r"\b(?:tools|enable_thinking|documents)\b")
"""What published templates take besides messages."""
_MAX_STOPS, _MAX_TEXT = 16, 64 << 10


def require_possible(path: Path, adapter: Path | None, base: Path) -> None:
    """Raises before any work: the target is no GGUF file, or has a name that cannot be quoted."""
    if path.suffix != ".gguf":
        raise UsageProblem(f"--modelfile for {path}", expected="a target that ends in .gguf", action="leave it out")
    if adapter is not None and base.suffix != ".gguf":
        raise UsageProblem(
            f"--modelfile for an adapter of {base}", expected="a --base that is a GGUF file",
            action=f"convert the base first: `aprnb convert {base} base.gguf`",
        )  # fmt: skip
    for name in (path.name, *([_relative(base, path.parent)] if adapter is not None else [])):
        if not is_visible(name) or '"' in name or name != name.strip():
            raise UsageProblem(
                f"the name {short(name)} cannot be written into a Modelfile", expected="plain characters"
            )


def require_free(path: Path, force: bool) -> None:
    """Raises where the Modelfile of the target `path` exists (unless `force`) or cannot be written."""
    modelfile = path.with_name(MODELFILE)
    if os.path.lexists(modelfile) and not force:
        raise OutputExists(f"{modelfile} exists", action="write into another folder, or replace it with --force")
    require_writable(modelfile, force)


def write_modelfile(
    path: Path, checkpoint: Checkpoint, architecture: Architecture, adapter: Path | None, force: bool
) -> tuple[str, ...]:
    """Writes the Modelfile of the GGUF file `path` and returns notes on what it leaves to Ollama.

    With `adapter`, `path` is an adapter's file and `checkpoint` its base.
    """
    notes: list[str] = []
    source = _file(path.name) if adapter is None else _file(_relative(checkpoint.path, path.parent))
    lines = [f"FROM {source}", *([f"ADAPTER {_file(path.name)}"] if adapter is not None else [])]
    try:
        choice = choose_tokenizer(checkpoint, architecture, None)
        tokenizer: Any = choice.checkpoint_tokenizer
        notes += [note for note in choice.assumptions if note.startswith("chat template:")]
    except TokenizerError as error:
        tokenizer, reason = None, error.found
        notes.append(f"the Modelfile has no TEMPLATE and no stop tokens: {reason}")
    generation = _generation(checkpoint.metadata)
    ends = sorted(checkpoint_end_ids(checkpoint, architecture.vocab_size))
    if tokenizer is not None:
        turns = turns_or_none(tokenizer) if tokenizer.chat_template else None
        lines += _conversation(turns, notes)
        lacking = _ARGUMENTS.findall(tokenizer.chat_template) if turns else []
        if lacking:
            named = ", ".join(sorted(set(lacking), key=lacking.index))
            notes.append(f"the Modelfile's TEMPLATE is without {named} of the chat template: it has only messages")
        lines += _stops(_end_texts(tokenizer, ends, turns), notes)
    lines += [*_stops(_stop_strings(generation), notes), *_parameters(generation)]
    lines.append(f"PARAMETER num_ctx {min(architecture.max_position_embeddings, MOST_CONTEXT)}")
    write_text(path.with_name(MODELFILE), "\n".join(lines) + "\n", force=force)
    return tuple(notes)


def _conversation(turns: Turns | None, notes: list[str]) -> Iterator[str]:
    """TEMPLATE and SYSTEM."""
    if turns is None:
        notes.append(
            "the Modelfile has no TEMPLATE: the chat template is missing, or not one text before and after each "
            "message; Ollama then uses the file's own if it knows it"
        )
        return
    yield f'TEMPLATE """{go_template(turns)}"""'
    system = turns.default_system
    if system and _quotable(system):
        yield f'SYSTEM """{system}"""'
    elif system:
        notes.append("the Modelfile has no SYSTEM: the template's system text cannot be quoted; TEMPLATE contains it")


def _quotable(text: str) -> bool:
    """Whether the text can stand between three quotes: Ollama has no escapes there."""
    lines = text.split("\n")
    return '"""' not in text and text[-1:] != '"' and len(text) <= _MAX_TEXT and all(map(is_visible, lines))


def _end_texts(tokenizer: Any, ids: Iterable[int], turns: Turns | None) -> list[str]:
    """The texts of the tokens that end an answer: the tokenizer's, those with `ids`, the template's."""
    texts = [tokenizer.convert_ids_to_tokens(number) for number in ids]
    end = turns.assistant[1].strip() if turns else ""
    special = {token.content for token in tokenizer.added_tokens_decoder.values()}
    found = [tokenizer.eos_token, *texts, *([end] if end in special else [])]
    return list(dict.fromkeys(text for text in found if text))


def _stops(texts: Iterable[str], notes: list[str]) -> Iterator[str]:
    for number, text in enumerate(texts):
        if number >= _MAX_STOPS or not is_visible(text) or '"' in text or not text.strip() or len(text) > 256:
            notes.append(f"the Modelfile has no stop {short(text)}: it cannot be quoted there")
        else:
            yield f'PARAMETER stop "{text}"'


def _stop_strings(generation: Mapping[str, Any]) -> list[str]:
    stated = generation.get("stop_strings")
    each = stated if isinstance(stated, list) else [stated]
    return list(dict.fromkeys(text for text in each if isinstance(text, str) and text))


def _generation(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    stated = metadata.get(GENERATION_CONFIG)
    return stated if isinstance(stated, Mapping) else sampling_settings(metadata)


def _parameters(generation: Mapping[str, Any]) -> Iterator[str]:
    """Sampling as the model's generation config states it; without `do_sample` it states greedy decoding."""
    if generation.get("do_sample") is False:
        yield "PARAMETER temperature 0"
    for key, (name, low, high) in _PARAMETERS.items():
        value: Any = generation.get(key)
        if type(value) not in (int, float) or (key == "top_k" and type(value) is not int):
            continue
        sampling = key == "repetition_penalty" or generation.get("do_sample") is not False
        if sampling and low <= float(value) <= high:  # NaN is not
            yield f"PARAMETER {name} {value:.7g}"  # of a GGUF file they are float32


def _file(name: str) -> str:
    return name if name.startswith((".", "/")) else f"./{name}"


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()
