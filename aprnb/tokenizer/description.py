"""The tokenizer as the inspection card shows it: what is used, or the problem with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aprnb.errors import CheckpointError, FileMissing, TokenizerError
from aprnb.formats.gguf.metadata import key_name
from aprnb.formats.sidecar_files import safe_path
from aprnb.tokenizer.choose_template import find_template
from aprnb.tokenizer.embedded_tokenizer import embedded_tokenizer
from aprnb.tokenizer.facts import TokenizerFacts, has_tokenizer, read_facts
from aprnb.tokenizer.rules import choose_pre_tokenizer
from aprnb.tokenizer.tokenizer_files import TokenizerFiles


def describe_tokenizer(
    metadata: Mapping[str, Any], architecture: str | None = None, sidecars: TokenizerFiles | None = None
) -> dict[str, Any]:
    """The tokenizer as JSON for the inspection card; never raises: an error is under `problem`.

    `sidecars` are used where the metadata have no tokenizer.
    """
    described: dict[str, Any] = {
        "kind": None, "vocab_size": None, "used": None, "added": None, "merges": None, "bos": None, "eos": None,
        "pre_tokenizer": None, "problem": None, "warnings": [], "chat_template": None,
    }  # fmt: skip
    try:
        described |= _described_template(metadata, sidecars or TokenizerFiles())
        if not has_tokenizer(metadata):
            sidecar = sidecars.tokenizer if sidecars else None
            there = f"; {safe_path(sidecar.parent, sidecar.name).name} next to it is used" if sidecar else ""
            return {**described, "problem": f"the file has no tokenizer{there}"}
        whole, doubts = embedded_tokenizer(metadata)
        facts = read_facts(metadata)
        described |= _described_facts(facts, [*described["warnings"], *doubts])
        named = metadata.get("special_tokens")
        if whole is not None and isinstance(named, Mapping):  # then null means that the token is not used
            described |= {name: None for name in ("bos", "eos") if named.get(f"{name}_token") is None}
        if whole is not None:
            described["pre_tokenizer"] = {"name": _steps(whole), "source": key_name(metadata, "hf_tokenizer")}
        elif facts.kind == "byte-level BPE":
            family = architecture or str(metadata.get("architecture") or "this model")
            name, source, _ = choose_pre_tokenizer(metadata, family)
            described["pre_tokenizer"] = {"name": name, "source": source}
    except (CheckpointError, FileMissing, TokenizerError) as problem:
        described["problem"] = problem.found
    return described


def _steps(whole: Mapping[str, Any]) -> str | None:
    """The types of the steps that split text."""
    step = whole.get("pre_tokenizer")
    inner = step.get("pretokenizers") if isinstance(step, Mapping) else None
    steps = inner if isinstance(inner, list) else [step]
    return (
        ", ".join(str(each["type"])[:40] for each in steps[:8] if isinstance(each, Mapping) and "type" in each) or None
    )


def _described_template(metadata: Mapping[str, Any], sidecars: TokenizerFiles) -> dict[str, Any]:
    stated = find_template(metadata, sidecars)
    if stated is None:
        return {}
    characters = len(stated.value) if isinstance(stated.value, str) else None
    return {
        "chat_template": {"source": stated.source, "characters": characters},
        "warnings": list(stated.warnings),
    }


def _described_facts(facts: TokenizerFacts, warnings: list[str]) -> dict[str, Any]:
    def named(number: int | None) -> dict[str, Any] | None:
        return None if number is None else {"id": number, "token": facts.tokens[number]}

    return {
        "kind": facts.kind,
        "vocab_size": facts.vocabulary_size,
        "used": len(facts.tokens),
        "added": len(facts.added),
        "merges": len(facts.merges) if facts.merges.counted else None,
        "bos": named(facts.bos_id),
        "eos": named(facts.eos_id),
        "warnings": [*warnings, *facts.warnings],
    }
