"""Every option of every command in one table, by the groups that help shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from aprnb.dtype_names import FLOATS, MIXES, TARGETS, short_dtype

Kind = Literal[
    "text", "choice", "dtype", "integer", "number", "flag", "modules", "pairs", "names", "texts", "source", "rows"
]
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


_CONVERTED = tuple(dtype.short for dtype in (*TARGETS, *MIXES))
_MERGED = tuple(dtype.name for dtype in FLOATS)
_LOADED = ("auto", *(dtype.in_torch for dtype in FLOATS))
_TRAINED = ("auto", *(dtype.in_torch for dtype in FLOATS if dtype.trains))
_OPTIMIZERS = ("auto", "adamw", "adamw8bit", "paged_adamw8bit")
TRACKERS = ("tensorboard", "trackio", "wandb", "mlflow")
_A_FILE = "an .apr, GGUF or safetensors file, or a Hugging Face folder"

GROUPS: Mapping[str, tuple[Option, ...]] = {
    "arguments": (
        Option("checkpoint", "text", None, _A_FILE, place="FILE", required=True),
        Option("target", "text", None, "X.apr, X.gguf, X.safetensors, or a folder", place="TARGET", required=True),
        Option("adapter", "text", None, "folder of a PEFT adapter", place="ADAPTER", required=True),
        Option("run_folder", "text", None, "folder of a run, NAME.run", place="RUN", required=True),
        Option("run_folders", "texts", None, "runs, or folders that contain runs (default: this folder)",
               place="FOLDER ..."),
    ),
    "what to train on": (
        Option("data", "rows", None, "training rows: a file, folder or pattern, list, DataFrame or text; several as"
               " --data A --data B=0.5, with weights", "ROWS", short="-d"),
        Option("eval_data", "rows", None, "rows to evaluate on; replaces --val-split", "ROWS"),
        Option("val_split", "number", None, "fraction of the rows to hold out (default 0.1)", "FRACTION", 0, 0.9),
        Option("task", "text", "instruct", "what to train for; only instruct is supported", "TASK"),
        Option("columns", "names", None, "names of the columns to read, such as instruction=q,response=a",
               "NAME=COLUMN,..."),
        Option("train_on", "choice", "answers", "which tokens of a row are learned",
               choices=("answers", "last", "everything")),
        Option("max_seq_len", "integer", None, "most tokens of a row (default 1024 or the model's limit)", "TOKENS",
               8, 1 << 24),
        Option("too_long", "choice", "truncate-prompt", "what happens to a longer row",
               choices=("truncate-prompt", "drop", "split", "error")),
    ),
    "method": (
        Option("method", "choice", "auto", "auto: lora where the base fits into memory, else qlora",
               choices=("auto", "lora", "qlora", "full"), short="-m"),
        Option("rank", "integer", None, "rank of the LoRA matrices (default 16)", "N", 1, 4096, short="-r"),
        Option("alpha", "number", None, "alpha of LoRA (default 2 × rank)", "NUMBER", 0),
        Option("lora_dropout", "number", None, "dropout before the LoRA matrices (default 0.0)", "FRACTION", 0, 0.9),
        Option("target_modules", "modules", None, "linear modules that get an adapter (default all-linear)", "NAMES"),
        Option("start_adapter", "text", None, "train this adapter on; it decides rank, alpha and modules", "ADAPTER",
               typed="adapter"),
        _flag("quantize_nf4", "load the frozen base in 4-bit NF4 (the same as --method qlora)"),
    ),
    "schedule": (
        Option("epochs", "integer", 3, "how often to train on each row", "N", 1, 10_000),
        Option("max_steps", "integer", None, "stop after this many optimizer steps", "N", 1, 10**9),
        Option("batch_size", "integer", 16, "rows per optimizer step", "ROWS", 1, 1 << 24),
        Option("learning_rate", "number", None, "peak learning rate (default 2e-4, with full 2e-5)", "RATE", 1e-12, 10),
        Option("schedule", "choice", "cosine", "how the learning rate falls after the warm-up",
               choices=("cosine", "linear", "constant", "wsd")),
        Option("warmup_ratio", "number", 0.03, "fraction of the steps with a rising learning rate", "FRACTION", 0, 1),
        Option("optimizer", "choice", "auto", "auto is adamw; 8-bit ones need CUDA", choices=_OPTIMIZERS),
        Option("weight_decay", "number", 0.0, "weight decay of matrices (not of norms and biases)", "RATE", 0, 10),
        Option("max_grad_norm", "number", 1.0, "clip the gradient norm to this value", "NORM", 1e-9),
        Option("eval_every", "integer", None, "steps between evaluations (default: ten per run)", "STEPS", 1, 10**9),
        Option("seed", "integer", 42, "random seed of split, order, LoRA matrices and dropout", "N", 0, 2**63 - 1),
    ),
    "generation": (
        Option("prompt", "text", None, "the prompt to answer; the same as --prompt", place="PROMPT"),
        Option("prompt_text", "text", None, "the prompt to answer; write --prompt=-5 for one that begins with a dash",
               "TEXT", typed="prompt"),
        Option("system", "text", None, "a system message in front of the prompt", "TEXT"),
        _flag("raw", "pass the prompt unchanged, without a chat template"),
        Option("max_new_tokens", "integer", None, "maximum length of the answer (default 256 or what is left)",
               "TOKENS", 1),
        Option("stop", "texts", None, "end the answer at this text; may be repeated", "TEXT"),
        Option("temperature", "number", None, "sample with this temperature (default: the most likely token)",
               "NUMBER", 0, 100),
        Option("top_p", "number", None, "sample from the most likely tokens with this total probability", "FRACTION",
               0, 1),
        Option("top_k", "integer", None, "sample from this many most likely tokens", "N", 1, 1 << 31),
        Option("min_p", "number", None, "sample from tokens above this fraction of the largest probability",
               "FRACTION", 0, 1),
        Option("repetition_penalty", "number", None, "make tokens that occurred less likely (above 1)", "NUMBER",
               0.01, 100),
        Option("sampling_seed", "integer", None, "random seed of sampling (default: another one each time)", "N",
               0, 2**63 - 1, typed="seed"),
        Option("load_dtype", "dtype", "auto", "dtype of the model", choices=_LOADED, typed="dtype"),
    ),
    "checks": (
        _flag("verify", "also check the footer checksum"),
        _flag("stats", "decode every tensor: range, mean, spread, zeros, NaN and infinite values"),
        _flag("strict", "treat warnings as errors"),
        _flag("other_base", "use a base other than the one that the adapter was trained on"),
    ),
    "output": (
        Option("output", "text", None, "the model to write, NAME.apr (default MODEL-finetuned.apr)", "FILE",
               short="-o"),
        Option("output_dtype", "dtype", None, "dtype of the written model", choices=_MERGED),
        Option("target_dtype", "dtype", None, "dtype of the written tensors", choices=_CONVERTED, typed="dtype"),
        Option("base", "text", None, "the base of an adapter to convert to GGUF", "FILE"),
        _flag("modelfile", "also write a Modelfile for Ollama next to a GGUF target"),
        _flag("adapter_only", "write only the adapter, no merged model"),
        _flag("write_best", "write the model of the lowest held-out loss, not that of the last step"),
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
        Option("preview", "integer", None, "show this many rows as tokens, the trained ones marked, and stop", "ROWS",
               1, 100),
        Option("resume", "flag", False, "continue an interrupted run; auto: continue it if there is one, else start",
               "[auto]", choices=("auto",)),
        Option("save_every", "text", None, "steps or minutes between saved states (default: ten per run)",
               "N|Nmin"),
        Option("keep", "integer", 2, "saved states to keep, besides the best one", "N", 1, 100),
        Option("track", "choice", None, "also pass the numbers of the run to this tracker", choices=TRACKERS),
        Option("sweep", "text", None, "one run for each combination, such as learning_rate=1e-4,3e-4 rank=8,32",
               "VALUES"),
        _flag("background", "return at once; the run goes on in a process of its own"),
        _flag("in_kernel", "train in the kernel, not in a process of its own", only="notebook"),
        _flag("keep_going", "let the cells after an interrupted run go on", only="notebook"),
        _flag("verbose", "show the whole plan and every step, and the traceback of an unexpected error"),
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
