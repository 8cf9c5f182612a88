"""A run that a cell starts: in its own process, in the background, interrupted, watched."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from comm import get_comm_manager
from comm.base_comm import BaseComm
from IPython.utils.capture import capture_output

import aprnb
from aprnb.errors import Interrupted
from aprnb.notebook.screen import Screen
from aprnb.notebook.stop import comm_target

OPTIONS = "--method lora --rank 4 --batch-size 4 --epochs 40"


@pytest.fixture
def here(tmp_path: Path, pocket_qwen3: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model and rows."""
    shutil.copy(pocket_qwen3, tmp_path / "model.apr")
    shutil.copy(repository / "notebooks" / "ask-the-cow.jsonl", tmp_path / "rows.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ran(shell: Any, line: str) -> Any:
    return shell.run_line_magic("apr_finetune", f"model.apr --data rows.jsonl --output tuned.apr {OPTIONS} {line}")


def wait_for_steps(folder: Path, steps: int) -> aprnb.tuning.results.run.Run:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if (folder / "plan.json").exists() and len(aprnb.open_run(folder).history.steps) >= steps:
            return aprnb.open_run(folder)
        time.sleep(0.1)
    raise AssertionError(f"no {steps} steps in {folder}")


def test_a_cell_in_the_background_returns_the_run_and_its_panel_goes_on(
    shell: Any, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Screen, "is_live", True)
    with capture_output() as captured:
        run = ran(shell, "--background")
        assert run.status == "running"
        assert "%apr_watch" in str(run)
        shown = shell.display_formatter.format(run)[0]
        assert shown == {"text/plain": "Run: tuned.run (shown above)"}, "nothing that is old when it is saved"
        wait_for_steps(here / "tuned.run", 2)
        panel = captured.outputs[0].transient["display_id"].removesuffix("-plan")
        from_page(panel, "stop")
        follower = next(thread for thread in threading.enumerate() if thread.name == panel)
        follower.join(60)
    shown = [output.data for output in captured.outputs if output.transient["display_id"] == panel]
    assert any("tokens/s" in data["text/html"] for data in shown), "numbers, although the cell has returned"
    assert "stopping after this micro-batch" in "".join(data["text/html"] for data in shown)
    assert "Run interrupted" in shown[-1]["text/plain"]
    (here / "tuned.run" / "stop").unlink()
    with capture_output() as again:
        from_page(panel, "state")  # a page that was opened after the end
        from_page(panel, "stop")
    assert "Run interrupted" in again.outputs[0].data["text/plain"]
    assert again.outputs[-1].transient["display_id"] == f"{panel}-stop", "empty: the page needs no more"
    assert not (here / "tuned.run" / "stop").exists(), "nothing is asked of a run that has ended"
    monkeypatch.undo()
    monkeypatch.chdir(here)
    watched = shell.run_line_magic("apr_watch", "tuned.run")
    assert watched.status == run.status == "interrupted"
    assert "after step" in shell.run_line_magic("apr_inspect", "tuned.run").to_html()


def from_page(panel: str, asked: str) -> None:
    """What arrives from the script of a panel."""
    comm = BaseComm(target_name=comm_target(panel), primary=False)
    get_comm_manager().register_comm(comm)
    get_comm_manager().targets[comm_target(panel)](comm, {"content": {"data": {"ask": asked}}})


def test_an_interrupted_cell_fails_after_its_state_is_saved(shell: Any, here: Path) -> None:
    import _thread

    def press() -> None:
        wait_for_steps(here / "tuned.run", 2)
        _thread.interrupt_main()

    presser = threading.Thread(target=press)
    presser.start()
    with pytest.raises(Interrupted, match=r"stopped after step \d+; its state is saved in \S*tuned\.run\n.*--resume"):
        ran(shell, "")
    presser.join()
    assert shell.user_ns["run"].status == "interrupted"
    assert shell.user_ns["run"].history.saved.step == len(shell.user_ns["run"].metrics)


def test_with_keep_going_an_interrupted_cell_does_not_fail(shell: Any, here: Path) -> None:
    presser = threading.Thread(target=lambda: wait_for_steps(here / "tuned.run", 2).stop())
    presser.start()
    run = ran(shell, "--in-kernel --keep-going")
    presser.join()
    assert (run.status, run.history.saved.step) == ("interrupted", len(run.metrics))


def test_in_the_kernel_the_model_stays_in_memory_and_in_its_own_process_it_is_loaded(shell: Any, here: Path) -> None:
    own = ran(shell, "--max-steps 2")
    assert own._model is None
    assert own.generate("Ask the cow.", max_new_tokens=2).ids
    assert ran(shell, "--max-steps 2 --force --in-kernel")._model is not None
