"""Which chat template a checkpoint uses: the same order for the inspection card and the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprnb.architecture.families import family_named
from aprnb.errors import ChatTemplateError, FileMissing, closest
from aprnb.formats.json_files import read_object, read_text
from aprnb.formats.source import is_file
from aprnb.tokenizer.chat_template import CHOOSE_ANOTHER, TEMPLATES
from aprnb.tokenizer.tokenizer_files import TokenizerFiles, as_tokenizer_error, sidecar_object, sidecar_text

_KEYS = ("chat_template", "tokenizer.chat_template")
MAX_TEMPLATE_CHARACTERS = 256 * 1024  # the longest published ones have some 50,000
_NEEDED_TOKENS = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "zephyr": (),
}


@dataclass(frozen=True)
class Template:
    """A chat template's text (None: there is none), where it comes from, and what was assumed."""

    text: str | None
    source: str
    assumptions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FoundTemplate:
    """The template that a checkpoint has: text, or an invalid value; `source` says where."""

    value: Any
    source: str
    warnings: tuple[str, ...] = ()


def find_template(metadata: Mapping[str, Any], sidecars: TokenizerFiles) -> FoundTemplate | None:
    """The template that is used; a second one that differs is a warning.

    Raises TokenizerError for a sidecar file that cannot be read, or is a link out of its folder.
    """
    found = [FoundTemplate(metadata[key], f"metadata {key}") for key in _KEYS if metadata.get(key)]
    found = found or _from_sidecars(sidecars)
    if len(found) == 2 and found[0].value != found[1].value:
        note = f"two different chat templates: {found[0].source} is used, {found[1].source} is not"
        return FoundTemplate(found[0].value, found[0].source, (note,))
    return found[0] if found else None


def _from_sidecars(sidecars: TokenizerFiles) -> list[FoundTemplate]:
    found = []
    if sidecars.template is not None:
        found.append(FoundTemplate(sidecar_text(sidecars.template), f"{sidecars.template.name} next to the file"))
    if sidecars.settings is not None:
        value = sidecar_object(sidecars.settings).get("chat_template")
        found += [] if value is None else [FoundTemplate(value, f"{sidecars.settings.name} next to the file")]
    return found


def choose_template(
    metadata: Mapping[str, Any], architecture: str, sidecars: TokenizerFiles, wanted: str | None, tokenizer: Any
) -> Template:
    """The template to use: the wanted one, the file's, the sidecar file's, or the family's where that is certain.

    Raises ChatTemplateError where the wanted one does not exist or needs tokens that the tokenizer does not have, or a
    template is too large or not text.
    """
    if wanted is not None:
        return _checked(_wanted_template(wanted, tokenizer))
    found = find_template(metadata, sidecars)
    if found is not None:
        return _checked(Template(_single(found.value, found.source), found.source, warnings=found.warnings))
    family = family_named(architecture)
    name = family.certain_chat_template if family else None
    if name and not _missing_tokens(name, tokenizer):
        rule = f"rule of the {architecture} family ({name})"
        note = f"chat template: {name}, by the rule of the {architecture} family; the file and its folder hold none"
        return Template(TEMPLATES[name], rule, (note,))
    return Template(None, "absent")


def _wanted_template(wanted: str, tokenizer: Any) -> Template:
    if wanted in TEMPLATES:
        missing = _missing_tokens(wanted, tokenizer)
        if missing:
            raise ChatTemplateError(
                f"template {wanted} writes {', '.join(missing)}, which this tokenizer does not have as tokens",
                action="give a template that fits the model: --chat-template FILE",
            )
        return Template(TEMPLATES[wanted], f"--chat-template {wanted}")
    path = Path(wanted)
    if not is_file(path) and ("{{" in wanted or "{%" in wanted):
        return Template(wanted, "--chat-template (text)")
    if is_file(path):
        with as_tokenizer_error():
            text = _template_of(read_object(path), wanted) if path.suffix == ".json" else read_text(path)
        if text is None:
            raise ChatTemplateError(f"{wanted} holds no chat_template", action=CHOOSE_ANOTHER)
        return Template(text, f"--chat-template {wanted}")
    if path.suffix or len(path.parts) > 1:
        raise FileMissing(f"--chat-template {wanted}: no such file, or it cannot be read", action=CHOOSE_ANOTHER)
    raise ChatTemplateError(f"--chat-template {wanted} is unknown{closest(wanted, TEMPLATES)}", action=CHOOSE_ANOTHER)


def _missing_tokens(name: str, tokenizer: Any) -> list[str]:
    backend = tokenizer.backend_tokenizer
    missing = [text for text in _NEEDED_TOKENS[name] if backend.token_to_id(text) is None]
    if name == "zephyr" and tokenizer.eos_token is None:
        missing.append("an end-of-sequence token")
    return missing


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


def _checked(template: Template) -> Template:
    if template.text is not None and len(template.text) > MAX_TEMPLATE_CHARACTERS:
        raise ChatTemplateError(
            f"the chat template ({template.source}) has {len(template.text):,} characters",
            expected=f"at most {MAX_TEMPLATE_CHARACTERS:,}", action=CHOOSE_ANOTHER,
        )  # fmt: skip
    return template
