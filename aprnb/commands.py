"""Which arguments each command takes: plain data, read by the parsers, by the help texts and by completion.

The options of training are those of the recipe and are listed there only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from aprnb.errors import UsageProblem, closest
from aprnb.options import Option
from aprnb.tuning.planning.recipe import OPTIONS as RECIPE

Surface = Literal["notebook", "shell"]
_DTYPES = ("F32", "BF16", "F16")
_WRITTEN_DTYPES = ("f32", "f16", "bf16", "q8", "q4", "q4_k", "q6_k")


@dataclass(frozen=True)
class Argument:
    """One thing that can be typed after a command: an option, or a positional argument where `place` is set.

    `only` limits it to one surface; `short` is a one-letter alias.
    """

    option: Option
    place: str | None = None
    short: str | None = None
    required: bool = False
    only: Surface | None = None

    @property
    def flags(self) -> tuple[str, ...]:
        return (self.short, self.option.flag) if self.short else (self.option.flag,)


def _text(name: str, text: str) -> Option:
    return Option(name, "text", None, text)


def _switch(name: str, text: str) -> Option:
    return Option(name, "flag", False, text)


_CHECKPOINT = Argument(
    _text("checkpoint", "an .apr, GGUF or safetensors file, or a Hugging Face folder"), place="FILE", required=True
)
_SOURCE = Argument(_CHECKPOINT.option, place="SOURCE", required=True)
_COMMON = (
    Argument(RECIPE["config"]),
    Argument(RECIPE["overrides"]),
    Argument(_text("as", "also store the result under this name"), only="notebook"),
    Argument(_switch("json", "print one JSON document on standard output and nothing else"), only="shell"),
    Argument(_switch("help", "show this text"), short="-h"),
)
_STRICT = Argument(_switch("strict", "refuse what would be a warning"))
_OUTPUT = Argument(_text("output", "the merged model, NAME.apr"), short="-o", required=True)
_OUTPUT_DTYPE = Argument(Option("output_dtype", "choice", None, "dtype of the merged tensors", choices=_DTYPES))
_SHORT = {"method": "-m", "rank": "-r", "data": "-d", "output": "-o"}


def _training(*, plan_only: bool) -> tuple[Argument, ...]:
    named = [Argument(option, short=_SHORT.get(name)) for name, option in RECIPE.items()]
    left_out = {"config", "overrides", *(("plan",) if plan_only else ())}
    return (
        Argument(_text("checkpoint", "the .apr file to start from"), place="FILE"),
        *(argument for argument in named if argument.option.name not in left_out),
        Argument(_text("recipe", "a TOML file with these options; those on the line win")),
        *_COMMON,
    )


@cache
def arguments_of(command: str) -> tuple[Argument, ...]:
    """What `command` takes on either surface; raises UsageProblem for a command that does not exist."""
    if command not in SUMMARIES:
        raise UsageProblem(f"unknown command {command!r}{closest(command, SUMMARIES)}", expected=", ".join(SUMMARIES))
    return {
        "inspect": (
            _CHECKPOINT,
            Argument(_switch("verify", "also check the footer checksum")),
            Argument(_switch("stats", "decode every tensor: range, mean, spread, zeros, NaN and infinite values")),
            _STRICT,
            *_COMMON,
        ),
        "check": (_CHECKPOINT, _STRICT, *_COMMON),
        "plan": _training(plan_only=True),
        "finetune": _training(plan_only=False),
        "convert": (
            _SOURCE,
            Argument(_text("target", "X.apr, X.gguf, X.safetensors, or a folder"), place="TARGET", required=True),
            Argument(Option("dtype", "choice", None, "element type of the written tensors", choices=_WRITTEN_DTYPES)),
            Argument(RECIPE["force"]),
            *_COMMON,
        ),
        "merge": (
            _CHECKPOINT,
            Argument(_text("adapter", "folder of a PEFT adapter"), place="ADAPTER", required=True),
            _OUTPUT,
            _OUTPUT_DTYPE,
            Argument(_switch("other_base", "merge into a base other than the one that the adapter was trained on")),
            Argument(RECIPE["force"]),
            *_COMMON,
        ),
        "generate": (
            _CHECKPOINT,
            Argument(_text("prompt", "what to ask"), required=True),
            Argument(_switch("raw", "leave the prompt as it is, without a chat template")),
            Argument(Option("max_new_tokens", "integer", None, "longest answer in tokens", low=1)),
            Argument(RECIPE["chat_template"]),
            Argument(RECIPE["device"]),
            Argument(RECIPE["dtype"]),
            *_COMMON,
        ),
    }[command]


SUMMARIES: dict[str, str] = {
    "inspect": "Show what a checkpoint holds.",
    "check": "Hold every tensor against the architecture that the file names.",
    "plan": "Show what fine-tuning would do, before any weight is loaded.",
    "finetune": "Fine-tune an .apr checkpoint.",
    "convert": "Write a checkpoint in another format or element type.",
    "merge": "Merge a PEFT adapter into its base.",
    "generate": "Answer one prompt.",
}
