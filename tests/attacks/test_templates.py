"""Chat templates that are programs; tests/tokenizer/test_chat_template.py tests each bound of the renderer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from registry import way

from aprnb.errors import ChatTemplateError
from aprnb.tokenizer import chat_template as chat
from aprnb.tokenizer.chat_template import Request, render, render_all

TALK = [{"role": "user", "content": "Hi"}]


def tokenizer_with(template: str) -> SimpleNamespace:
    return SimpleNamespace(chat_template=template, special_tokens_map={})


@way("templates that are programs")
@pytest.mark.parametrize(
    "template",
    [
        "{{ 10 ** (10 ** 10) }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 10 ** 10 }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(messages) }}{{ messages }}",
        "{% set n = namespace() %}{% set n.__class__ = 1 %}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_that_is_a_program_is_stopped(monkeypatch, template):
    monkeypatch.setattr(chat, "SECONDS_PER_BATCH", 1.0)
    with pytest.raises(ChatTemplateError):
        render(tokenizer_with(template), TALK, add_generation_prompt=False)


@way("a batch of renderings that fills the memory")
def test_a_batch_of_large_renderings_is_stopped():
    with pytest.raises(ChatTemplateError, match="have more than"):
        render_all(tokenizer_with("{{ 'x' * 60000 }}"), [Request(TALK, False)] * 1_000)


@way("a rendering with half of a surrogate pair")
def test_a_rendering_that_is_not_text_is_a_problem_of_its_own():
    odd, fine = render_all(
        tokenizer_with("{% if messages %}{{ '\\ud800' }}{% else %}fine{% endif %}"),
        [Request(TALK, False), Request([], False)],
    )
    assert odd.text is None
    assert odd.problem is not None
    assert "surrogate" in odd.problem
    assert fine.text == "fine"
