"""`%apr_generate` and `%%apr_generate` in a shell, and in a kernel with a front end."""

from __future__ import annotations

import os
import shutil
from types import SimpleNamespace

import pytest

import aprnb
from aprnb.errors import Interrupted, UsageProblem
from aprnb.model.answer import Generation
from aprnb.notebook.answer import LiveAnswer
from aprnb.notebook.screen import Screen
from aprnb.phases import Phase
from aprnb_tests.rewrite import with_metadata

ASKED, ANSWER = "What is the opposite of hot?", "The opposite of hot is cold."
DONE = Generation("p", (1, 2), "  a\n b", "eos", 2, "<end>", 3, None, ("a notice",), first_token_s=0.5, seconds=1.0)


def run(shell, source: str):
    outcome = shell.run_cell(source)
    outcome.raise_error()
    return outcome.result


def test_the_line_magic_returns_the_answer(shell, pocket_qwen3):
    shell.user_ns |= {"path": pocket_qwen3, "question": ASKED, "ends": [" cold", "warm"]}
    answer = run(shell, f'%apr_generate $path "{ASKED}" --as kept')
    assert (answer.text, answer.stop_reason) == (ANSWER, "eos")
    assert shell.user_ns["kept"] is answer
    assert run(shell, "%apr_generate $path $question --stop $ends").text == "The opposite of hot is"


def test_the_body_of_the_cell_magic_is_the_prompt_as_it_is(shell, pocket_qwen3):
    body = "  {a: 1}\n$b --raw\n\nlast line"
    answer = run(shell, f"%%apr_generate {pocket_qwen3} \\\n  --max-new-tokens 2\n{body}\n")
    assert answer.prompt == f"<|im_start|>user\n{body}<|im_end|>\n<|im_start|>assistant\n"
    assert len(answer.ids) == 2


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("%apr_generate x.apr", "no prompt; expected one prompt, in quotes"),
        ("%%apr_generate x.apr\n", "no prompt"),
        ("%%apr_generate x.apr hi\nho", "a prompt on the line and one in the cell's body"),
        ("%apr_generate x.apr What is it", "unknown argument is"),
    ],
)
def test_other_than_one_prompt_is_an_error(shell, cell, message):
    with pytest.raises(UsageProblem, match=message):
        run(shell, cell)


class Recorded:
    """A display handle that keeps what it was given."""

    def __init__(self):
        self.bundles = []

    def publish(self, bundle, **_):
        self.bundles.append(bundle)
        return SimpleNamespace(update=lambda bundle, raw: self.bundles.append(bundle))


@pytest.fixture
def display(monkeypatch):
    recorded = Recorded()
    monkeypatch.setattr("aprnb.notebook.answer.publish", recorded.publish)
    monkeypatch.delenv("APRNB_STATIC", raising=False)
    return recorded


def kernel_screen():
    return Screen(SimpleNamespace(kernel=object(), execution_count=1))


def test_one_display_is_replaced_while_the_text_grows_and_ends_as_static_text(display):
    screen, now = kernel_screen(), SimpleNamespace(s=0.0)
    with LiveAnswer(screen, clock=lambda: now.s) as live:
        live.phase(Phase("loading", 3, 37))
        live.text("  a")
        now.s += 1
        live.text("\n b")
        live.finish(DONE)
    shown = [bundle["text/plain"].split("\n", 2)[2] for bundle in display.bundles]
    assert shown == [
        "loading 3/37", "  a", "  a\n b",
        "  a\n b\n\n2 tokens, stopped at the end token <end> (2)\n\n≈ assumption: a notice\n\n2.0 tokens/s, the first "
        "after 0.5 s",
    ]  # fmt: skip
    assert "white-space: pre-wrap" in display.bundles[-1]["text/html"]
    assert ">  a\n b</pre>" in display.bundles[-1]["text/html"]
    assert screen.bundle(DONE) == {"text/plain": "Generation: Answer (shown above)"}


def test_updates_come_at_most_five_times_a_second(display):
    now = SimpleNamespace(s=0.0)
    with LiveAnswer(kernel_screen(), clock=lambda: now.s) as live:
        for _ in range(100):
            now.s += 0.01
            live.text("x")
        live.finish(DONE)
    assert 5 <= len(display.bundles) <= 7


def test_an_error_before_the_first_text_leaves_nothing(display):
    with pytest.raises(ZeroDivisionError), LiveAnswer(kernel_screen()) as live:
        live.phase(Phase("loading", 3, 37))
        raise ZeroDivisionError
    assert display.bundles[-1] == {"text/plain": "", "text/html": ""}


def test_an_interrupt_before_the_first_text_is_an_error_of_two_lines(shell, pocket_qwen3, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("aprnb.model.build.build_model", interrupted)
    with pytest.raises(Interrupted, match="stopped before the answer began\n→ ask again$"):
        run(shell, f"%apr_generate {pocket_qwen3} hi")


def test_an_error_leaves_the_text_so_far_and_no_phase(display):
    with pytest.raises(ZeroDivisionError), LiveAnswer(kernel_screen()) as live:
        live.phase(Phase("loading", 3, 37))
        live.text("<b>so far")
        raise ZeroDivisionError
    assert display.bundles[-1]["text/plain"].endswith("<b>so far")
    assert "&lt;b&gt;so far</pre>" in display.bundles[-1]["text/html"]


def executed(folder, *sources):
    """The outputs of each cell, in a real kernel."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    assert "widgets" not in notebook.metadata
    return [cell.outputs for cell in notebook.cells]


ENDED = "8 tokens, stopped at the end token <|im_end|> (826)"


def test_a_static_kernel_shows_equal_answers_equally(pocket_qwen3, tmp_path, monkeypatch):
    monkeypatch.setenv("APRNB_STATIC", "1")
    shutil.copy(pocket_qwen3, tmp_path / "pocket.apr")
    asked = f'%apr_generate pocket.apr "{ASKED}"'
    _, first, second = executed(tmp_path, "%load_ext aprnb", asked, asked)
    assert first[0]["data"] == second[0]["data"]
    assert len(first) == 1
    assert first[0]["data"]["text/plain"].split("\n")[2:] == [ANSWER, "", ENDED]


def test_a_notebook_keeps_one_static_display_of_the_answer(pocket_qwen3, tmp_path, monkeypatch):
    monkeypatch.delenv("APRNB_STATIC", raising=False)
    shutil.copy(pocket_qwen3, tmp_path / "pocket.apr")
    _, (shown, result) = executed(tmp_path, "%load_ext aprnb", f'%apr_generate pocket.apr "{ASKED}"')
    lines = shown["data"]["text/plain"].split("\n")
    assert lines[2:5] == [ANSWER, "", ENDED]
    assert "tokens/s" in lines[-1]
    assert set(shown["data"]) == {"text/plain", "text/html"}
    assert result["data"] == {"text/plain": "Generation: Answer (shown above)"}


@pytest.mark.skipif(os.name == "nt", reason="sends signals")
def test_an_interrupt_of_a_kernel_keeps_the_answer_so_far_and_the_next_cell_runs(pocket_qwen3, tmp_path, monkeypatch):
    manager = pytest.importorskip("jupyter_client.manager")
    monkeypatch.delenv("APRNB_STATIC", raising=False)
    metadata = aprnb.open(pocket_qwen3).metadata.items()
    endless = {key: value for key, value in metadata if "chat_template" not in key and "eos_token_id" not in key}
    with_metadata(pocket_qwen3, tmp_path / "endless.apr", endless)
    kernel, client = manager.start_new_kernel(cwd=str(tmp_path))

    def cell(source, interrupts=False):
        """The status and the last output; one interrupt is sent when text appears."""
        outputs, sent = [], []

        def take(message):
            if message["msg_type"] not in ("status", "execute_input"):
                outputs.append(message)
            text = message["content"].get("data", {}).get("text/plain", "")
            is_phase = any(word in text for word in ("importing", "loading", "reading"))
            if interrupts and not sent and message["msg_type"] == "update_display_data" and not is_phase:
                sent.append(True)
                kernel.interrupt_kernel()

        reply = client.execute_interactive(source, output_hook=take, timeout=120)
        return reply["content"]["status"], outputs[-1] if outputs else None

    try:
        cell("%load_ext aprnb")
        magic = "answer = %apr_generate endless.apr hi --raw --max-new-tokens 500"
        status, shown = cell(magic, interrupts=True)
        assert status == "ok"
        assert ", interrupted" in shown["content"]["data"]["text/plain"]
        status, printed = cell("print(answer.stop_reason, 0 < len(answer.ids) < 500, len(answer.text) > 0)")
        assert (status, printed["content"]["text"]) == ("ok", "interrupted True True\n")
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)
