"""Which chat template counts, and that hostile ones end in an error instead of a hang."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

import aprnb
from aprnb.errors import ChatTemplateError, FileMissing
from aprnb.tokenizer import chat_template as chat
from aprnb.tokenizer.chat_template import CHATML, Request, render, render_all
from aprnb.tokenizer.choose import build_tokenizer
from aprnb.tokenizer.sandbox.bounded_child import AnswerTooLarge, BoundedChild, ChildFailed, DeadlinePassed

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
def test_the_file_s_template_takes_precedence_over_the_sidecar_s(metadata, sources, key):
    choice = build_tokenizer({**metadata, key: "{{ 1 }}"}, "qwen3", sources / "qwen3")
    assert (choice.tokenizer.chat_template, choice.template_source) == ("{{ 1 }}", f"metadata {key}")


def test_a_sidecar_file_takes_precedence_over_the_family(metadata, sources):
    choice = build_tokenizer(metadata, "qwen3", sources / "qwen3")
    assert choice.template_source == "tokenizer_config.json next to the file"


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


def test_without_any_template_rendering_is_an_error_with_an_action(metadata):
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
def test_a_text_that_is_not_a_template_is_rejected(metadata, found):
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


def test_an_error_of_a_template_belongs_to_one_conversation(tokenizer):
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


def tokenizer_with(template: str, **tokens: str) -> Any:
    return SimpleNamespace(chat_template=template, special_tokens_map=tokens)


MEASURE = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from types import SimpleNamespace
from aprnb.errors import ChatTemplateError
from aprnb.tokenizer import chat_template as chat
from aprnb_tests.memory import forget_peak, peak
requests = [chat.Request([{"role": "user", "content": "Hi"}], False)] * 4000
template, child = sys.argv[2:]
chat.render_all(SimpleNamespace(chat_template="x", special_tokens_map={}), requests)
if child:
    chat._CHILD = Path(child)
    chat.SECONDS_PER_BATCH, chat.SECONDS_PER_REQUEST = 3.0, 0.0
before = forget_peak()
try:
    chat.render_all(SimpleNamespace(chat_template=template, special_tokens_map={}), requests)
    problem = ""
except ChatTemplateError as caught:
    problem = str(caught)
print(peak() - before)
print(problem)
"""


def measure(template: str, child: Path | None = None) -> tuple[int, str]:
    """Bytes by which a parent grows while it renders 4,000 conversations, and the error's text."""
    command = [sys.executable, "-c", MEASURE, str(Path(__file__).parent.parent), template, str(child or "")]
    growth, problem = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n", 1)
    if growth == "0" and not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of a process is read from /proc")
    return int(growth), problem.strip()


# 1 MiB, and for each of 4,000 requests 16 KiB and twice its line, of 90 bytes at most
LARGEST_ANSWER = 1024**2 + 4_000 * (16 * 1024 + 2 * 90)


def test_a_batch_of_large_renderings_is_stopped_in_the_child():
    growth, problem = measure("{{ 'x' * 1000000 }}")
    assert "more than 67," in problem
    assert growth < 16 * 1024**2


def test_the_parent_holds_an_answer_at_the_limit_and_its_texts():
    growth, problem = measure("{{ 'x' * 16000 }}")
    assert not problem
    assert growth < LARGEST_ANSWER + 4_000 * 16_000 + 16 * 1024**2


# What a child that hostile input took over may do: its source after `import os, sys, time`, a part of the error's text,
# and the bytes that the parent may take in. None of them reads its input.
HOSTILE_CHILDREN = {
    "endless stdout": ("while True: os.write(1, b'x' * 65536)", "wrote more than", 0),
    "endless stderr": ("while True: os.write(2, b'x' * 65536)", "on stderr", 0),
    "endless answer": (
        "os.write(1, (67_000_000).to_bytes(8, 'little'))\nwhile True: os.write(1, b'x' * 65536)",
        "longer than 3 s",
        LARGEST_ANSWER,
    ),
    "an answer of one line": (
        "os.write(1, (67_000_000).to_bytes(8, 'little'))\n"
        "for part in (b'text \"', *[b'x' * 65536] * 1023): os.write(1, part)",
        "malformed answer",
        LARGEST_ANSWER,
    ),
    "nested lists": (
        "answer = b'text ' + b'[[],' * 1_000_000\nsys.stdout.buffer.write(len(answer).to_bytes(8, 'little') + answer)",
        "malformed answer",
        4_000_005,
    ),
    "a promise": ("os.write(1, (67_000_000).to_bytes(8, 'little'))\ntime.sleep(60)", "longer than 3 s", 0),
    "a closed stdout": ("os.close(1)\ntime.sleep(60)", "crashed its process", 0),
    "a long last line": ("sys.stderr.write('a\\n' + 'x' * 500_000)", "crashed its process (xxx", 0),
    "no answer": ("sys.exit(7)", "exit status 7", 0),
}


@pytest.mark.parametrize(("source", "said", "most_bytes"), HOSTILE_CHILDREN.values(), ids=HOSTILE_CHILDREN.keys())
def test_the_parent_s_memory_is_bounded_whatever_the_child_writes(tmp_path, source, said, most_bytes):
    child = tmp_path / "child.py"
    child.write_text(f"import os, sys, time\n{source}\n")
    growth, problem = measure("x", child)
    assert said in problem and len(problem) < 600
    assert growth < most_bytes + 16 * 1024**2


def test_legitimate_batches_stay_below_the_limit():
    system = "{{ '" + "You are a helpful assistant. " * 400 + "' }}"  # 11,600 characters in each rendering
    short = [Request(TALK[: 1 + at % 3], add_generation_prompt=True) for at in range(4_000)]
    assert all(rendering.text for rendering in render_all(tokenizer_with(system + CHATML), short))
    # 80 rows of 100 kB: quotes, which JSON doubles, and characters of three bytes
    content = ('"' * 20_000 + "日本" * 10_000)[:34_000]
    long = [Request([{"role": "user", "content": content}], add_generation_prompt=False)] * 80
    twice = "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}"
    assert all(rendering.text == content * 2 for rendering in render_all(tokenizer_with(twice), long))


SURROGATES = {
    "in the template": ("a\ud800b", "U+D800"),
    "as an escape": ("{{ '\\udfff' }}", "U+DFFF"),
    "as two halves": ("{{ '\\ud83d' ~ '\\ude00' }}", "U+D83D"),
    "in a special token": ("{{ eos_token }}", "U+D801"),
    "in a message": ("{{ messages[0].content }}", "U+D802"),
    "as two halves in a message": ("{{ messages[1].content }}", "U+D83D"),
    "sliced out of a message": ("{{ messages[1].content | first }}", "U+D83D"),
    "as JSON": ("{{ messages | tojson }}", "U+D802"),
    "in a problem": ("{{ raise_exception('no \\ud803') }}", "no ⟨U+D803⟩"),
}
HALVES = [{"role": "user", "content": "\ud802"}, {"role": "assistant", "content": "\ud83d\ude00"}]


@pytest.mark.parametrize(("template", "said"), SURROGATES.values(), ids=SURROGATES.keys())
def test_half_a_surrogate_pair_is_a_problem_of_one_rendering(template, said):
    tokenizer = tokenizer_with("{% if messages %}" + template + "{% else %}fine 😀{% endif %}", eos_token="\ud801")
    halves, fine = render_all(tokenizer, [Request(HALVES, False), Request([], False)])
    assert halves.text is None and said in halves.problem and halves.problem.isprintable()
    assert fine.text == "fine 😀"
    with pytest.raises(ChatTemplateError) as caught:
        render(tokenizer, HALVES, add_generation_prompt=False)
    assert str(caught.value).encode()


def test_surrogates_that_are_not_rendered_do_no_harm():
    tokenizer = tokenizer_with("{# \ud800 #}{{ messages | length }}", eos_token="\ud801", **{"\ud802": "x"})
    assert render(tokenizer, HALVES, add_generation_prompt=False) == "2"


def test_a_template_with_a_surrogate_in_its_syntax_is_a_readable_error():
    with pytest.raises(ChatTemplateError, match="the chat template cannot be used"):
        render(tokenizer_with("{{ \ud800 }}"), TALK, add_generation_prompt=False)


def test_without_the_resource_module_the_parent_s_bounds_hold(tmp_path, monkeypatch):
    child = tmp_path / "child.py"
    run = f"runpy.run_path({str(chat._CHILD)!r}, run_name='__main__')"
    child.write_text(f"import runpy, sys\nsys.modules['resource'] = None\n{run}\n")
    monkeypatch.setattr(chat, "_CHILD", child)
    monkeypatch.setattr(chat, "SECONDS_PER_BATCH", 1.0)
    assert render(tokenizer_with(CHATML), TALK, add_generation_prompt=False)
    with pytest.raises(ChatTemplateError, match="ran longer than 1 s"):
        render(tokenizer_with(ENDLESS["nested loops"]), TALK, add_generation_prompt=False)
    with pytest.raises(ChatTemplateError, match="rendered conversations have more than"):
        render_all(tokenizer_with("{{ 'x' * 1000000 }}"), [Request(TALK, False)] * 3)


RENDER_ENDLESSLY = """
import sys
from types import SimpleNamespace
from aprnb.tokenizer import chat_template as chat
template, chat.SECONDS_PER_BATCH = sys.argv[1], float(sys.argv[2])
chat.render_all(SimpleNamespace(chat_template=template, special_tokens_map={}), [chat.Request([], False)])
"""


def stop_while_a_child_renders(stop: signal.Signals, limit_s: float) -> tuple[subprocess.Popen[str], psutil.Process]:
    command = [sys.executable, "-c", RENDER_ENDLESSLY, ENDLESS["nested loops"], str(limit_s)]
    parent = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: any(child.cpu_times().user > 0.3 for child in psutil.Process(parent.pid).children()))
    [child] = psutil.Process(parent.pid).children()
    parent.send_signal(stop)
    return parent, child


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_ctrl_c_ends_the_wait_and_the_child():
    parent, child = stop_while_a_child_renders(signal.SIGINT, limit_s=60)
    said = parent.communicate(timeout=5)[1]
    assert "KeyboardInterrupt" in said
    assert is_gone(child)


def test_a_killed_parent_leaves_no_child_behind():
    # Where other work takes the processors, a child needs seconds for the 0.3 s of processor time that are waited for.
    parent, child = stop_while_a_child_renders(signal.SIGKILL, limit_s=5)
    parent.communicate(timeout=30)
    wait_for(lambda: is_gone(child), seconds=60)


def test_the_child_s_own_clock_ends_a_wait_for_input():
    head = {"template": "x", "variables": {}, "seconds": 0.1, "requests": 1}
    child = subprocess.Popen([sys.executable, str(chat._CHILD)], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdin.write(json.dumps(head).encode() + b"\n")
    child.stdin.flush()
    assert child.wait(timeout=10) == 1
    child.stdin.close()
    child.stderr.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("escapes", [False, True])
def test_the_clock_holds_where_another_process_keeps_the_pipes_open(tmp_path, escapes):
    script = tmp_path / "child.py"
    script.write_text(
        "import os, time\nif os.fork(): os._exit(0)\n"
        f"os.setsid() if {escapes} else None\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n"
    )
    start = time.monotonic()
    with pytest.raises(DeadlinePassed), BoundedChild(script) as child:
        child.ask(b"x" * 1024**2, 10, seconds=2)
    assert time.monotonic() - start < 6
    other = psutil.Process(int((tmp_path / "pid").read_text()))
    if escapes:
        other.kill()
    wait_for(lambda: is_gone(other))


ECHO = """
import sys
for line in sys.stdin.buffer:
    if line == b"fail\\n":
        raise ValueError("failed")
    sys.stdout.buffer.write(len(line).to_bytes(8, "little") + line)
    sys.stdout.buffer.flush()
"""


@pytest.fixture()
def echo(tmp_path: Path) -> Path:
    script = tmp_path / "echo.py"
    script.write_text(ECHO)
    return script


def test_a_child_answers_several_questions(echo):
    with BoundedChild(echo) as child:
        for question in (b"a\n", b"x" * 3_000_000 + b"\n", b"\n"):
            assert child.ask(question, len(question), seconds=20) == question
        process = child._process
    assert process.returncode is not None and process.stdout.closed


@pytest.mark.parametrize(
    ("question", "most_bytes", "seconds", "error"),
    [(b"ab\n", 2, 20, AnswerTooLarge), (b"fail\n", 9, 20, ChildFailed), (b"no end", 9, 0.5, DeadlinePassed)],
)
def test_every_failure_has_its_own_error_and_kills_the_child(echo, question, most_bytes, seconds, error):
    with BoundedChild(echo) as child:
        assert child.ask(b"a\n", 9, seconds=20) == b"a\n"
        with pytest.raises(error) as caught:
            child.ask(question, most_bytes, seconds)
        assert child._process.returncode is not None
    assert error is not ChildFailed or str(caught.value) == "ValueError: failed"
