"""Which chat template counts, and that hostile ones end in an error instead of a hang."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

import aprnb
from aprnb.errors import ChatTemplateError, FileMissing
from aprnb.model import chat
from aprnb.model.chat import CHATML, Request, render, render_all
from aprnb.model.tokenizer import build_tokenizer

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}, {"role": "user", "content": "Ü?"}]


@pytest.fixture(scope="module")
def metadata(pocket_qwen3: Path) -> dict[str, Any]:
    return dict(aprnb.open(pocket_qwen3).metadata)


@pytest.fixture()
def tokenizer(metadata: dict[str, Any]) -> Any:
    return build_tokenizer(metadata, "qwen3").tokenizer


def test_the_wanted_template_goes_before_all_others(metadata, sources):
    choice = build_tokenizer({**metadata, "chat_template": "file"}, "qwen3", sources / "qwen3", "chatml")
    assert (choice.tokenizer.chat_template, choice.template_source) == (CHATML, "--chat-template chatml")


@pytest.mark.parametrize("key", ["chat_template", "tokenizer.chat_template"])
def test_the_file_s_template_goes_before_the_sibling_s(metadata, sources, key):
    choice = build_tokenizer({**metadata, key: "{{ 1 }}"}, "qwen3", sources / "qwen3")
    assert (choice.tokenizer.chat_template, choice.template_source) == ("{{ 1 }}", f"metadata {key}")


def test_a_sibling_goes_before_the_family(metadata, sources):
    choice = build_tokenizer(metadata, "qwen3", sources / "qwen3")
    assert choice.template_source == "tokenizer_config.json beside the file"


def test_a_template_file_goes_before_the_settings(metadata, tmp_path):
    (tmp_path / "chat_template.jinja").write_text("{{ 1 }}")
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ 2 }}"}')
    assert build_tokenizer(metadata, "qwen3", tmp_path).tokenizer.chat_template == "{{ 1 }}"


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_the_qwen_families_have_chatml_as_their_sources_do(metadata, sources, family):
    choice = build_tokenizer(metadata, family)
    assert (
        choice.tokenizer.chat_template
        == json.loads((sources / family / "tokenizer_config.json").read_text())["chat_template"]
    )
    assert any("chatml, by the rule" in note for note in choice.assumptions)


def test_without_any_template_rendering_names_the_way_out(metadata):
    choice = build_tokenizer(metadata, "llama")
    assert choice.template_source == "absent"
    with pytest.raises(ChatTemplateError, match="no chat template") as caught:
        render(choice.tokenizer, TALK, add_generation_prompt=True)
    assert "--chat-template" in str(caught.value.action)


def test_a_template_can_be_a_file_or_settings_or_text(metadata, tmp_path):
    (tmp_path / "a.jinja").write_text("{{ 1 }}")
    named = [{"name": "tools", "template": "x"}, {"name": "default", "template": "{{ 2 }}"}]
    (tmp_path / "b.json").write_text(json.dumps({"chat_template": named}))
    for wanted, text in (("a.jinja", "{{ 1 }}"), ("b.json", "{{ 2 }}")):
        choice = build_tokenizer(metadata, "qwen3", None, str(tmp_path / wanted))
        assert choice.tokenizer.chat_template == text
    assert build_tokenizer(metadata, "qwen3", None, "{{ 3 }}").tokenizer.chat_template == "{{ 3 }}"


def test_a_misspelt_name_gets_a_suggestion_and_a_missing_file_its_path(metadata):
    with pytest.raises(ChatTemplateError, match="did you mean chatml"):
        build_tokenizer(metadata, "qwen3", None, "chatlm")
    with pytest.raises(FileMissing, match=r"no/such\.jinja"):
        build_tokenizer(metadata, "qwen3", None, "no/such.jinja")


def test_a_named_template_needs_its_tokens(metadata):
    with pytest.raises(ChatTemplateError, match=r"llama3 writes <\|start_header_id\|>"):
        build_tokenizer(metadata, "qwen3", None, "llama3")


@pytest.mark.parametrize("found", [7, ["x"], [{"name": "tools", "template": "x"}], "x" * 300_000])
def test_a_template_that_is_none_is_refused(metadata, found):
    with pytest.raises(ChatTemplateError):
        build_tokenizer({**metadata, "chat_template": found}, "qwen3")


TEMPLATES = {
    **chat.TEMPLATES,
    "functions": "{%- set ns = namespace(n=0) -%}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ m | tojson }}"
    "{% if loop.last %}{% break %}{% endif %}{% endfor %}"
    "{{ ns.n }}{{ dict(a=1) }}{{ strftime_now('%Y') }}{{ tools is none }}",
    "generation marks": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}\n{% endfor %}"
    "{{ eos_token }}",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
@pytest.mark.parametrize("opened", [True, False])
def test_rendering_equals_that_of_transformers(tokenizer, template, opened):
    tokenizer.chat_template = template
    expected = tokenizer.apply_chat_template(TALK, tokenize=False, add_generation_prompt=opened)
    assert render(tokenizer, TALK, add_generation_prompt=opened) == expected


def test_many_conversations_keep_their_order_across_batches(tokenizer, monkeypatch):
    monkeypatch.setattr(chat, "_BATCH_REQUESTS", 2)
    tokenizer.chat_template = "{{ messages[0].content }}"
    requests = [Request([{"role": "user", "content": str(at)}], False) for at in range(5)]
    assert [rendering.text for rendering in render_all(tokenizer, requests)] == list("01234")


def test_what_a_template_says_against_a_conversation_stays_with_that_conversation(tokenizer):
    tokenizer.chat_template = "{% if messages|length > 1 %}{{ raise_exception('one turn only') }}{% endif %}fine"
    short, long = render_all(tokenizer, [Request(TALK[:1], False), Request(TALK, False)])
    assert (short.text, long.text, long.problem) == ("fine", None, "one turn only")
    with pytest.raises(ChatTemplateError, match="one turn only"):
        render(tokenizer, TALK, add_generation_prompt=False)


ENDLESS = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a power": "{{ 9**(9**9) }}",
    "a power that only running finds": "{{ messages|length ** 99999999 ** 9 }}",
    "recursion that branches": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
}
SWOLLEN = {
    "range": "{% for a in range(10**9) %}x{% endfor %}",
    "text times a number": "{{ 'x' * 10**10 }}",
    "a width": "{{ '%9999999999d' % 1 }}",
    "padding": "{{ 'x'.ljust(10**10) }}",
    "doubling": "{% set n = namespace(s='x') %}{% for a in range(33) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}",
    "long output": "{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
    "deep recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "escape through attributes": "{{ ''.__class__.__mro__[1].__subclasses__() | length + 'x' }}",
    "escape through a namespace": "{% set ns = namespace(__class__=1) %}",
    "changing the conversation": "{{ messages.append(1) }}",
    "broken": "{% for %}",
    "deep nesting": "{{" + "(" * 5000 + "1" + ")" * 5000 + "}}",
}


@pytest.mark.parametrize("template", SWOLLEN.values(), ids=SWOLLEN.keys())
def test_a_template_that_grows_or_escapes_is_stopped(tokenizer, template):
    tokenizer.chat_template = template
    with pytest.raises(ChatTemplateError) as caught:
        render(tokenizer, TALK, add_generation_prompt=False)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("template", ENDLESS.values(), ids=ENDLESS.keys())
def test_a_template_that_never_ends_is_stopped(tokenizer, template, monkeypatch):
    monkeypatch.setattr(chat, "SECONDS_PER_BATCH", 0.5)
    tokenizer.chat_template = template
    start = time.perf_counter()
    with pytest.raises(ChatTemplateError):
        render(tokenizer, TALK, add_generation_prompt=False)
    assert time.perf_counter() - start < 5
