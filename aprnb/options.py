"""Every option of every command in one table, by the groups that help shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from aprnb.dtype_names import FLOATS, TARGETS, short_dtype

Kind = Literal["text", "choice", "dtype", "integer", "number", "flag", "modules", "pairs", "source"]
Surface = Literal["notebook", "shell"]


@dataclasses.dataclass(frozen=True)
class Option:
    """One option or argument: its name, the values that it takes, and its line of help.

    `choices` are spelled as recipes and plans store them. `typed` is the name after `--` if it is not `name`; `place`
    names a positional argument in help; `only` limits an option to one surface.
    """

    name: str
    kind: Kind
    default: Any
    help: str
    metavar: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    short: str | None = None
    typed: str | None = None
    place: str | None = None
    required: bool = False
    only: Surface | None = None

    @property
    def flag(self) -> str:
        return "--" + (self.typed or self.name).replace("_", "-")

    @property
    def flags(self) -> tuple[str, ...]:
        """Every form of the option; none for a positional argument."""
        return () if self.place else (self.short, self.flag) if self.short else (self.flag,)

    @property
    def shown_choices(self) -> tuple[str, ...]:
        """The choices as help, completion and errors show them."""
        return tuple(map(short_dtype, self.choices)) if self.kind == "dtype" else self.choices

    @property
    def value_name(self) -> str:
        """The placeholder of the value in help."""
        return self.metavar or "|".join(self.shown_choices) or "FILE"


def _flag(name: str, text: str, **more: Any) -> Option:
    return Option(name, "flag", False, text, **more)


_CONVERTED = tuple(dtype.short for dtype in TARGETS)
_MERGED = tuple(dtype.name for dtype in FLOATS)
_LOADED = ("auto", *(dtype.in_torch for dtype in FLOATS))
_TRAINED = ("auto", *(dtype.in_torch for dtype in FLOATS if dtype.trains))
_OPTIMIZERS = ("auto", "adamw", "adamw8bit", "paged_adamw8bit")
_A_FILE = "an .apr, GGUF or safetensors file, or a Hugging Face folder"

GROUPS: Mapping[str, tuple[Option, ...]] = {
    "arguments": (
        Option("checkpoint", "text", None, _A_FILE, place="FILE", required=True),
        Option("target", "text", None, "X.apr, X.gguf, X.safetensors, or a folder", place="TARGET", required=True),
        Option("adapter", "text", None, "folder of a PEFT adapter", place="ADAPTER", required=True),
    ),
    "what to train on": (
        Option("data", "source", None, "training rows: JSON Lines file, list, DataFrame or text", short="-d"),
        Option("eval_data", "source", None, "rows to evaluate on; replaces --val-split"),
        Option("val_split", "number", None, "fraction of the rows to hold out (default 0.1)", "FRACTION", 0, 0.9),
        Option("task", "text", "instruct", "what to train for; only instruct is supported", "TASK"),
        Option("max_seq_len", "integer", None, "longer rows are cut (default 1024 or the model's limit)", "TOKENS",
               8, 1 << 24),
    ),
    "method": (
        Option("method", "choice", "auto", "auto: lora where the base fits into memory, else qlora",
               choices=("auto", "lora", "qlora", "full"), short="-m"),
        Option("rank", "integer", None, "rank of the LoRA matrices (default 16)", "N", 1, 4096, short="-r"),
        Option("alpha", "number", None, "alpha of LoRA (default 2 × rank)", "NUMBER", 0),
        Option("lora_dropout", "number", None, "dropout before the LoRA matrices (default 0.0)", "FRACTION", 0, 0.9),
        Option("target_modules", "modules", None, "linear modules that get an adapter (default all-linear)", "NAMES"),
        _flag("quantize_nf4", "load the frozen base in 4-bit NF4 (the same as --method qlora)"),
    ),
    "schedule": (
        Option("epochs", "integer", 3, "how often to train on each row", "N", 1, 10_000),
        Option("max_steps", "integer", None, "stop after this many optimizer steps", "N", 1, 10**9),
        Option("batch_size", "integer", 16, "rows per optimizer step", "ROWS", 1, 1 << 24),
        Option("learning_rate", "number", None, "peak learning rate (default 2e-4, with full 2e-5)", "RATE", 1e-12, 10),
        Option("warmup_ratio", "number", 0.03, "fraction of the steps with a rising learning rate", "FRACTION", 0, 1),
        Option("optimizer", "choice", "auto", "auto is adamw; 8-bit ones need CUDA", choices=_OPTIMIZERS),
        Option("weight_decay", "number", 0.0, "weight decay of matrices (not of norms and biases)", "RATE", 0, 10),
        Option("max_grad_norm", "number", 1.0, "clip the gradient norm to this value", "NORM", 1e-9),
        Option("eval_every", "integer", None, "steps between evaluations (default: ten per run)", "STEPS", 1, 10**9),
        Option("seed", "integer", 42, "random seed of split, order, LoRA matrices and dropout", "N", 0, 2**63 - 1),
    ),
    "generation": (
        Option("prompt", "text", None, "the prompt to answer", "TEXT", required=True),
        _flag("raw", "pass the prompt unchanged, without a chat template"),
        Option("max_new_tokens", "integer", None, "maximum length of the answer", "TOKENS", 1),
        Option("load_dtype", "dtype", "auto", "dtype of the model", choices=_LOADED, typed="dtype"),
    ),
    "checks": (
        _flag("verify", "also check the footer checksum"),
        _flag("stats", "decode every tensor: range, mean, spread, zeros, NaN and infinite values"),
        _flag("strict", "treat warnings as errors"),
        _flag("other_base", "merge into a base other than the one that the adapter was trained on"),
    ),
    "output": (
        Option("output", "text", None, "the model to write, NAME.apr (default MODEL-finetuned.apr)", "FILE",
               short="-o"),
        Option("output_dtype", "dtype", None, "dtype of the written model", choices=_MERGED),
        Option("target_dtype", "dtype", None, "dtype of the written tensors", choices=_CONVERTED, typed="dtype"),
        _flag("adapter_only", "write only the adapter, no merged model"),
        _flag("force", "overwrite existing outputs"),
    ),
    "model": (
        Option("model_size", "text", None, "fail unless the file has this size, for example 8B", "SIZE"),
        Option("config", "source", None, "a config.json for fields that the file does not contain"),
        Option("overrides", "pairs", None, "set one architecture field; may be repeated", "FIELD=VALUE", typed="set"),
        Option("chat_template", "text", None, "chat template for a checkpoint without one", "NAME|FILE"),
    ),
    "device and memory": (
        Option("device", "text", "auto", "auto, cpu, cuda or cuda:N", "DEVICE"),
        Option("dtype", "dtype", "auto", "dtype of the base", choices=_TRAINED),
        Option("micro_batch_tokens", "integer", None, "tokens per forward pass (default by device)", "TOKENS",
               8, 1 << 24),
        Option("gradient_checkpointing", "choice", "auto", "recompute activations in the backward pass",
               choices=("auto", "on", "off")),
    ),
    "run": (
        Option("recipe", "text", None, "a TOML file with these options; options on the line override it", "FILE"),
        _flag("plan", "show the plan and stop"),
        _flag("resume", "continue an interrupted run"),
        _flag("verbose", "report every step; show the traceback of an unexpected error"),
    ),
    "general": (
        Option("as", "text", None, "also store the result under this name", "NAME", only="notebook"),
        _flag("json", "print one JSON document on standard output and nothing else", only="shell"),
        _flag("help", "show this text", short="-h"),
    ),
}  # fmt: skip
"""Group → its options, in the order in which help shows them."""

OPTIONS: Mapping[str, Option] = {option.name: option for options in GROUPS.values() for option in options}


def option(name: str) -> Any:
    """A dataclass field with the default of the option of this name."""
    return dataclasses.field(default=OPTIONS[name].default)


def options_of(*recipes: type) -> dict[str, Option]:
    """Field name → option, from dataclasses whose fields come from `option`."""
    return {field.name: OPTIONS[field.name] for recipe in recipes for field in dataclasses.fields(recipe)}
