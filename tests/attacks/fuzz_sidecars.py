"""Target of the fuzzer: sidecar files of the weights (config, tokenizer, template, index, manifest), inspected."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fuzz_case import Case, become
from fuzz_documents import blind, changed_json, damaged
from fuzz_judges import parsed
from fuzz_layouts import Layout, layouts, planted_files
from fuzz_tokenizers import WORDS as TOKENIZER_WORDS
from fuzz_tokenizers import hold_built, token_ids
from judges import Row, WrongVerdict, apr_rows, safetensors_rows

import aprnb
from aprnb.errors import AprnbError
from aprnb.tokenizer.choose import choose_tokenizer
from aprnb.tokenizer.choose_template import find_template
from aprnb.tokenizer.tokenizer_files import find_tokenizer_files, sidecar_object

BUILT = 0.005
"""How many of the checkpoints that are accepted have their tokenizer made, in a child process."""
CONVERTED = 0.05
CONFIG_WORDS = (
    "qwen3", "llama", "model_type", "architectures", "hidden_size", "num_attention_heads", "num_key_value_heads",
    "head_dim", "vocab_size", "rope_theta", "rope_scaling", "rope_parameters", "rope_type", "yarn", "factor",
    "sliding_window", "layer_types", "tie_word_embeddings", "quantization_config", "auto_map", "text_config",
    "num_experts", "is_causal", "partial_rotary_factor", "hidden_act", "eos_token_id", "n_embd", "attention_bias",
)  # fmt: skip
INDEX_WORDS = (
    "weight_map", "metadata", "shards", "filename", "index", "tensors", "shard_count", "version", "2.0", "2.x",
    "../outside/model.safetensors", "model.safetensors", "model-00001-of-00002.safetensors", "model.apr",
    "model-00001-of-00002.apr", "model-00003-of-00003.safetensors", "/etc/passwd", "model.safetensors.index.json",
    "model.json", "model.embed_tokens.weight", "a/b.safetensors", "..", "x.safetensors", "\0.safetensors",
)  # fmt: skip
COMPARED = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size",
    "vocab_size", "rms_norm_eps", "rope_theta", "max_position_embeddings", "hidden_act", "attention_bias",
)  # fmt: skip
"""Fields of the architecture that a Hugging Face config names alike."""


class Sidecars:
    """A tiny Qwen3 in all layouts."""

    def __init__(self, folder: Path) -> None:
        self._layouts, self.planted = layouts(), planted_files()

    def build(self, rng: random.Random, case: Case) -> None:
        layout = rng.choice(self._layouts)
        files = dict(layout.files)
        for name in rng.sample(layout.damaged, min(len(layout.damaged), rng.choice((0, 1, 1, 1, 2)))):
            files[name] = _damaged(rng, _kind(layout, name), files[name])
        case.write(files)
        for name, target in layout.links.items():
            path = case.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(target)
        if rng.random() < 0.25:
            names = [name for name in layout.links or layout.files if name != layout.opened]
            become(rng, case.folder / rng.choice(names), case.outside)
        if rng.random() < 0.03:
            opened = case.folder / layout.opened  # a link that the user names may lead anywhere
            others = [name for name in self.planted if name != opened.name]
            become(rng, opened.parent / rng.choice(others), case.outside)
        case.note = layout

    def examine(self, rng: random.Random, case: Case) -> str:
        layout: Layout = case.note
        path = case.folder / layout.opened
        with aprnb.open(path) as checkpoint:
            report = aprnb.inspect(checkpoint)
            case.hold_secret(dict(checkpoint.metadata), report.to_json(), checkpoint.warnings)
            if rng.random() < 0.1:
                case.hold_secret(str(report), report.to_html())
            hold_entries(checkpoint, case, (case.folder / layout.opened), layout)
            hold_metadata(checkpoint, case, path if path.is_dir() else path.parent)
            _read_tokenizer(case, checkpoint)
            if report.architecture is None:
                return "no architecture"
            if not report.ok:
                return "contract broken"
            if layout.name in ("folder", "file", "index", "hub"):
                hold_fields(report, checkpoint.metadata.get("hf_config", {}))
            if rng.random() < BUILT:
                choice = choose_tokenizer(checkpoint, report.architecture)
                case.hold_secret(
                    choice.checkpoint_tokenizer.get_vocab(), choice.checkpoint_tokenizer.chat_template, choice
                )
                hold_built(choice.checkpoint_tokenizer)
            case.hold_files()
            if rng.random() < CONVERTED:
                return _converted(checkpoint, case.folder / rng.choice(("x.apr", "x.gguf", "x.safetensors")))
            return "green"


def _converted(checkpoint: aprnb.Checkpoint, target: Path) -> str:
    """aprnb reads every file that it wrote, whatever the sidecar files contained."""
    try:
        aprnb.convert(checkpoint, target)
    except AprnbError:
        return "conversion rejected"
    with aprnb.open(target) as again:
        report = aprnb.inspect(again)
        if again.format != "safetensors" and not report.ok:
            raise WrongVerdict(f"{target.name}, which we wrote, is not green: {report.architecture_error}")
    return "converted"


def _kind(layout: Layout, name: str) -> str:
    """The name that a damaged file has where it is read: one of the hub's blobs is known by its link."""
    links = {Path(target).name: Path(link).name for link, target in layout.links.items()}
    return links.get(Path(name).name, Path(name).name)


def _damaged(rng: random.Random, name: str, data: bytes) -> bytes:
    words = CONFIG_WORDS
    if name.endswith("jinja"):
        return blind(rng, data) if rng.random() < 0.8 else rng.choice((b"x" * 5_000_000, b"\xff", b"{{ 1 }}"))
    if "index" in name or name == "model.json":
        words = INDEX_WORDS
    elif "tokenizer" in name:
        words = TOKENIZER_WORDS
    return damaged(rng, data, lambda rng, data: changed_json(rng, data, words), aware=0.9)


def _read_tokenizer(case: Case, checkpoint: aprnb.Checkpoint) -> None:
    """What a tokenizer is made of, as far as this process does it."""
    sidecars = find_tokenizer_files(checkpoint.path)
    for path in (None, sidecars.tokenizer, sidecars.settings):
        try:
            case.hold_secret(sidecar_object(path) if path else find_template(checkpoint.metadata, sidecars))
        except AprnbError as error:
            case.hold_secret(str(error))


def hold_entries(checkpoint: aprnb.Checkpoint, case: Case, opened: Path, layout: Layout) -> None:
    """Raises WrongVerdict unless every tensor lies where index or manifest and the files' own headers say."""
    read: dict[int, Mapping[str, Row]] = {}
    contents: dict[int, bytes] = {}
    for number, file in enumerate(checkpoint.contents.files):
        name = os.path.relpath(file.source.path, case.folder)
        case.hold_inside(name)
        contents[number] = file.source.path.read_bytes()
        read[number] = (apr_rows if name.endswith(".apr") else safetensors_rows)(contents[number])
    for name, entry in checkpoint.tensors.items():
        shape, start, sizes = read[entry.file].get(name, ((), 0, set()))
        if shape != entry.shape or entry.size_bytes not in sizes:
            raise WrongVerdict(f"{name}: {shape} of {sorted(sizes)} bytes; read as {entry}")
        if checkpoint.raw(name) != contents[entry.file][start : start + entry.size_bytes]:
            raise WrongVerdict(f"{name}: other bytes than those at {start}")
    if sorted(checkpoint.tensors) != sorted(name for rows in read.values() for name in rows):
        raise WrongVerdict("the files hold other tensors")
    _hold_map(checkpoint, case, opened, layout)


def _hold_map(checkpoint: aprnb.Checkpoint, case: Case, opened: Path, layout: Layout) -> None:
    """Raises WrongVerdict where a tensor comes from another file than the index or the manifest names."""
    path = opened / "model.safetensors.index.json" if opened.is_dir() else opened
    if layout.name not in ("index", "manifest") or (layout.name == "index" and not path.exists()):
        return
    case.hold_inside(os.path.relpath(path, case.folder))
    document = parsed(path.read_bytes())
    if layout.name == "index":
        wanted = document["weight_map"]
    else:
        wanted = {name: one["filename"] for one in document["shards"] for name in one["tensors"]}
    files = [file.source.path.name for file in checkpoint.contents.files]
    found = {name: files[entry.file] for name, entry in checkpoint.tensors.items()}
    if found != wanted:
        raise WrongVerdict(f"tensors come from other files than {path.name} says")


def hold_metadata(checkpoint: aprnb.Checkpoint, case: Case, folder: Path) -> None:
    """Raises WrongVerdict where config, vocabulary or template in the metadata are not those of the folder's files."""
    metadata = checkpoint.metadata
    if checkpoint.format not in ("huggingface", "safetensors"):
        return

    def read(name: str) -> Any:
        case.hold_inside(os.path.relpath(folder / name, case.folder))
        data = (folder / name).read_bytes()
        return data.decode("utf-8") if name.endswith("jinja") else parsed(data)

    if "hf_config" in metadata and metadata["hf_config"] != read("config.json"):
        raise WrongVerdict("hf_config is not config.json")
    template = folder / "chat_template.jinja"
    is_read = not any(f"{template.name} is not read" in warning for warning in checkpoint.warnings)
    if (
        is_read
        and "chat_template" in metadata
        and template.is_file()
        and metadata["chat_template"] != read(template.name)
    ):
        raise WrongVerdict("the chat template is not that of chat_template.jinja")
    listed = metadata.get("tokenizer.vocabulary")
    if listed is not None:
        ids = dict(token_ids(read("tokenizer.json")))
        wrong = [text for text, number in ids.items() if ids.get(listed[number]) != number]
        if wrong:
            raise WrongVerdict(f"{wrong[0]!r} is not at its place of the vocabulary")


def hold_fields(report: Any, config: Mapping[str, Any]) -> None:
    """Raises WrongVerdict where a green report has another value than the config, and no warning about it."""
    fields = report.architecture.fields()
    for name in COMPARED:
        stated, found = config.get(name), fields.get(name)
        if stated is not None and stated != found and not any(name in text for text in report.warnings):
            raise WrongVerdict(f"{name} is {stated!r} in config.json and {found!r} in the report")
    json.dumps(fields, allow_nan=False)
