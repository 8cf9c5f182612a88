"""Which chat template a checkpoint uses: the same order for the inspection card and the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aprnb.architecture.families import family_named
from aprnb.errors import ChatTemplateError, CheckpointError, FileMissing, closest
from aprnb.formats.gguf.metadata import key_name, template_name
from aprnb.formats.huggingface.folder_files import named_templates
from aprnb.formats.json_files import MARK, decoded, read_object, read_text
from aprnb.formats.source import is_file
from aprnb.printable import first_names
from aprnb.tokenizer.chat_template import CHOOSE_ANOTHER, TEMPLATES
from aprnb.tokenizer.tokenizer_files import TokenizerFiles, as_tokenizer_error, sidecar_bytes, sidecar_object

_KEYS = ("chat_template", "tokenizer.chat_template")
MAX_TEMPLATE_CHARACTERS = 256 * 1024  # the longest published ones have some 50,000
_NEEDED_TOKENS = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "zephyr": (),
}
_MARKS = {"zephyr": ("<|user|>", "<|assistant|>")}
"""Not needed: zephyr-7b-beta and TinyLlama were trained with them as plain text."""


@dataclass(frozen=True)
class Template:
    """A chat template's text (None: there is none), where it comes from, and what was assumed."""

    text: str | None
    source: str
    assumptions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    problem: str | None = None
    """Why there is none, where a file of it exists."""


@dataclass(frozen=True, slots=True)
class FoundTemplate:
    """The template that a checkpoint has: text, or an invalid value; `source` says where.

    `problem`: the file's bytes are not text; `value` is None then.
    """

    value: Any
    source: str
    warnings: tuple[str, ...] = ()
    problem: str | None = None


def find_template(metadata: Mapping[str, Any], sidecars: TokenizerFiles) -> FoundTemplate | None:
    """The template that is used; a second one that differs is a warning.

    Raises TokenizerError for a sidecar file that cannot be read, or is a link out of its folder.
    """
    found = [FoundTemplate(metadata[key], key_name(metadata, key)) for key in _KEYS if metadata.get(key)]
    beside = found or _from_sidecars(sidecars)
    # a folder's named templates are in its metadata already; without a default one none of them is chosen here
    found = [each for each in beside if not (named_templates(metadata) and _has_no_default(each.value))]
    if found and found[0].problem:
        unread = f"{sidecars.template.name if sidecars.template else 'the template'} is not read: {found[0].problem}"
        return replace(found[1] if len(found) == 2 else found[0], warnings=(unread,))
    if len(found) == 2 and found[0].value != found[1].value:
        note = f"two different chat templates: {found[0].source} is used, {found[1].source} is not"
        return FoundTemplate(found[0].value, found[0].source, (note,))
    return found[0] if found else None


def _from_sidecars(sidecars: TokenizerFiles) -> list[FoundTemplate]:
    found = []
    if sidecars.template is not None:
        found.append(_of_file(sidecars.template))
    if sidecars.settings is not None:
        value = sidecar_object(sidecars.settings).get("chat_template")
        found += [] if value is None else [FoundTemplate(value, f"{sidecars.settings.name} next to the file")]
    return found


def _of_file(path: Path) -> FoundTemplate:
    source = f"{path.name} next to the file"
    raw = sidecar_bytes(path)
    try:
        return FoundTemplate(decoded(raw, path), source)
    except CheckpointError as error:
        return FoundTemplate(None, source, problem=error.found)


def choose_template(
    metadata: Mapping[str, Any], architecture: str, sidecars: TokenizerFiles, wanted: str | None, tokenizer: Any
) -> Template:
    """The template to use: the wanted one, the file's, the sidecar file's, or the family's where that is certain.

    Raises ChatTemplateError where the wanted one does not exist or needs tokens that the tokenizer does not have, or a
    template is too large or not text.
    """
    if wanted is not None:
        named = named_templates(metadata)
        own = Template(named[wanted], template_name(metadata, wanted)) if wanted in named else None
        return _checked(own or _wanted_template(wanted, tokenizer, named))
    found = find_template(metadata, sidecars)
    if found is not None and found.problem:
        return Template(None, found.source, warnings=found.warnings, problem=found.problem)
    if found is not None:
        return _checked(Template(_single(found.value, found.source), found.source, warnings=found.warnings))
    family = family_named(architecture)
    name = family.certain_chat_template if family else None
    if name and not _missing_tokens(name, tokenizer):
        rule = f"rule of the {architecture} family ({name})"
        note = f"chat template: {name}, by the rule of the {architecture} family; the file and its folder hold none"
        return Template(TEMPLATES[name], rule, (note,))
    others = list(named_templates(metadata))
    unused = f"no chat template is the default; --chat-template NAME chooses one of {first_names(others, 10)}"
    return Template(None, "absent", warnings=(unused,) if others else ())


def _wanted_template(wanted: str, tokenizer: Any, named: Mapping[str, str]) -> Template:
    if wanted in TEMPLATES:
        missing = _missing_tokens(wanted, tokenizer)
        if missing:
            raise ChatTemplateError(
                f"template {wanted} writes {', '.join(missing)}, which this tokenizer does not have as tokens",
                action="give a template that fits the model: --chat-template FILE",
            )
        return Template(TEMPLATES[wanted], f"--chat-template {wanted}", warnings=_as_text(wanted, tokenizer))
    path = Path(wanted)
    if not is_file(path) and ("{{" in wanted or "{%" in wanted):
        return Template(wanted.removeprefix(MARK), "--chat-template (text)")
    if is_file(path):
        with as_tokenizer_error():
            text = _template_of(read_object(path), wanted) if path.suffix == ".json" else read_text(path)
        if text is None:
            raise ChatTemplateError(f"{wanted} holds no chat_template", action=CHOOSE_ANOTHER)
        return Template(text, f"--chat-template {wanted}")
    if path.suffix or len(path.parts) > 1:
        raise FileMissing(f"--chat-template {wanted}: no such file, or it cannot be read", action=CHOOSE_ANOTHER)
    known = [*named, *TEMPLATES]
    raise ChatTemplateError(f"--chat-template {wanted} is unknown{closest(wanted, known)}", action=CHOOSE_ANOTHER)


def _missing_tokens(name: str, tokenizer: Any) -> list[str]:
    backend = tokenizer.backend_tokenizer
    missing = [text for text in _NEEDED_TOKENS[name] if backend.token_to_id(text) is None]
    if name == "zephyr" and tokenizer.eos_token is None:
        missing.append("an end-of-sequence token")
    return missing


def _as_text(name: str, tokenizer: Any) -> tuple[str, ...]:
    """The warning about marks that the template writes and the tokenizer splits, as that of the first Zephyr does."""
    backend = tokenizer.backend_tokenizer
    split = [text for text in _MARKS.get(name, ()) if backend.token_to_id(text) is None]
    if not split:
        return ()
    return (
        f"template {name} writes {', '.join(split)} as plain text: this tokenizer does not have them as tokens; "
        "only a model that was trained in this way follows them",
    )


def _template_of(settings: Mapping[str, Any], where: str) -> str | None:
    found = settings.get("chat_template")
    return None if found is None else _single(found, where)


def _single(found: Any, where: str) -> str:
    """The text; of a list of named templates the one called default."""
    if isinstance(found, list) and all(isinstance(each, dict) for each in found):
        named = {str(each.get("name")): each.get("template") for each in found}
        if not isinstance(named.get("default"), str):
            names = ", ".join(list(named)[:10])
            raise ChatTemplateError(
                f"{where} holds several templates ({names}) and none called default",
                action="save the one you want to a file: --chat-template FILE",
            )
        found = named["default"]
    if not isinstance(found, str):
        raise ChatTemplateError(
            f"the chat template in {where} is {type(found).__name__}", expected="text", action=CHOOSE_ANOTHER
        )
    return found


def _has_no_default(value: Any) -> bool:
    """Whether this is a list of named templates of which none is called default."""
    return isinstance(value, list) and all(isinstance(each, dict) and each.get("name") != "default" for each in value)


def _checked(template: Template) -> Template:
    if template.text is not None and len(template.text) > MAX_TEMPLATE_CHARACTERS:
        raise ChatTemplateError(
            f"the chat template ({template.source}) has {len(template.text):,} characters",
            expected=f"at most {MAX_TEMPLATE_CHARACTERS:,}", action=CHOOSE_ANOTHER,
        )  # fmt: skip
    return template
