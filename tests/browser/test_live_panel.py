"""The live panel in a real JupyterLab: numbers while the cell runs, the Stop button, what stays when it is saved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from .lab import LabPage, output_kinds

_TRAIN = """%%apr_finetune pocket.apr \\
    --method lora --rank 4 --max-steps {steps} --epochs 1000 --batch-size 4 --seed 1 \\
    --data rows.jsonl --output {output}.apr"""


@pytest.fixture
def ready(page: LabPage, pocket_qwen3: Path) -> LabPage:
    shutil.copy(pocket_qwen3, page.folder / "pocket.apr")
    # In the words that the pocket model knows, so that its loss passes the gate for a sensible base.
    words = ["fish", "snow", "cat", "dog", "tree", "gold", "cherry", "bird", "milk", "hand", "foot", "rain"]
    rows = [{"instruction": f"Spell {word}.", "response": " ".join(word)} for word in words]
    rows += [{"instruction": f"Name the colour of {word}.", "response": f"{word} is green."} for word in words]
    (page.folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return page


def test_the_stop_button_ends_a_blocking_run_and_the_saved_notebook_is_static(ready: LabPage, tmp_path: Path) -> None:
    page = ready
    page.open("stop.ipynb", ["%load_ext aprnb", _TRAIN.format(steps=100_000, output="stopped"), "run.status"])
    page.run(0)
    page.start(1)
    button = page.cell(1).locator("button.aprnb-stop")
    button.wait_for(timeout=90_000)
    page.cell(1).get_by_text("tokens/s").wait_for(timeout=60_000)
    first = page.cell(1).locator(".aprnb-live").inner_text()
    page.cell(1).locator("svg.aprnb-curve").wait_for(timeout=60_000)
    page.page.wait_for_timeout(1000)
    page.page.screenshot(path=tmp_path / "live.png")
    assert page.cell(1).locator(".aprnb-live").inner_text() != first, "the numbers move"
    assert not page.cell(1).locator("[data-mime-type*=widget], .jupyter-widgets").count()
    button.click()
    page.cell(1).get_by_text("stopping after this micro-batch").first.wait_for(timeout=2_000)
    page.wait_for_end(1, 60)
    assert page.run(2).endswith("'interrupted'")
    page.cell(1).get_by_text("Run interrupted").first.scroll_into_view_if_needed()
    page.page.wait_for_timeout(300)
    page.page.screenshot(path=tmp_path / "stopped.png")

    saved = page.save("stop.ipynb")
    kinds = output_kinds(saved)
    assert not any("widget" in kind for kind in kinds), kinds
    assert "image/png" in kinds
    assert "widgets" not in saved["metadata"]
    text = json.dumps(saved["cells"][1]["outputs"])
    assert "nterrupted" in text
    assert "aprnb-stop" not in text


def test_a_reloaded_page_shows_the_last_state_goes_on_and_stops(ready: LabPage, tmp_path: Path) -> None:
    page = ready
    page.open("reload.ipynb", ["%load_ext aprnb", _TRAIN.format(steps=100_000, output="reloaded"), "run"])
    page.run(0)
    page.start(1)
    page.cell(1).get_by_text("tokens/s").wait_for(timeout=90_000)
    page.save("reload.ipynb")
    page.reload()
    page.cell(1).locator(".aprnb-live svg").wait_for(timeout=30_000)
    last = page.cell(1).locator(".aprnb-live").inner_text()
    assert "Loading widget" not in page.output_text(1)
    page.page.wait_for_function(
        "last => document.querySelector('.aprnb-live').innerText !== last", arg=last, timeout=30_000
    )
    page.page.screenshot(path=tmp_path / "reloaded.png")
    page.cell(1).locator("button.aprnb-stop").click()
    page.cell(1).get_by_text("Run interrupted").wait_for(timeout=60_000)
    page.cell(1).locator("img[src^='data:image/png']").wait_for(timeout=10_000)
    assert not page.cell(1).locator("button.aprnb-stop").count()
    assert "%apr_watch reloaded.run in a cell shows this in it too" in page.output_text(1), (
        "JupyterLab has its own copy"
    )
    assert "Run interrupted" in page.run(2), "and the object shows it again"

    page.reload()  # the file holds the panel as it was during the run
    page.cell(1).get_by_text("Run interrupted").wait_for(timeout=30_000)
    assert not page.cell(1).locator("button.aprnb-stop").count(), "the kernel answers after the end too"
    page.restart_kernels()
    page.reload()
    page.page.wait_for_timeout(3000)
    shown = page.output_text(1)
    assert "\nState of 20" in shown, "another process knows nothing of the run"
    assert "(training): %apr_watch reloaded.run shows what became of the run" in shown
    assert "Not connected to this run" in shown
    assert not page.cell(1).locator("button.aprnb-stop, progress").first.is_visible()
    page.page.screenshot(path=tmp_path / "restarted.png")


def test_a_panel_whose_kernel_was_restarted_under_it_offers_no_stop(page: LabPage, tmp_path: Path) -> None:
    events = (
        "from aprnb.notebook.panel import Panel\nfrom aprnb.notebook.screen import Screen\n"
        "from aprnb.tuning.training.events import Phase\n"
        "panel = Panel(Screen(get_ipython()))\npanel(Phase('starting'))"
    )
    page.open("lost.ipynb", [events])
    page.run(0)
    page.cell(0).locator("button.aprnb-stop").wait_for()
    page.page.wait_for_timeout(13_000)  # longer than a page waits before it asks
    assert page.cell(0).locator("button.aprnb-stop").is_visible(), "a phase may be long: the kernel answers"
    page.restart_kernels()
    page.cell(0).get_by_text("Not connected to this run").wait_for(timeout=60_000)
    assert not page.cell(0).locator("button.aprnb-stop").is_visible()
    page.page.screenshot(path=tmp_path / "lost.png")


def test_a_run_in_the_background_is_shown_and_stopped_while_the_kernel_is_busy(ready: LabPage, tmp_path: Path) -> None:
    page = ready
    train = _TRAIN.format(steps=100_000, output="behind") + " --background"
    page.open("behind.ipynb", ["%load_ext aprnb", train, "6 * 7", "import time; time.sleep(60)"])
    page.run(0)
    page.run(1, timeout_s=90)
    assert page.run(2).endswith("42"), "the kernel is free"
    page.cell(1).get_by_text("tokens/s").wait_for(timeout=60_000)
    last = page.cell(1).locator(".aprnb-live").inner_text()
    page.page.wait_for_function(
        "last => document.querySelector('.aprnb-live').innerText !== last", arg=last, timeout=30_000
    )
    page.start(3)
    page.page.wait_for_timeout(500)
    page.cell(1).locator("button.aprnb-stop").click()
    page.cell(1).get_by_text("Run interrupted").wait_for(timeout=30_000)
    page.page.screenshot(path=tmp_path / "behind.png")
    assert "*" in page.cell(3).locator(".jp-InputPrompt").first.inner_text(), "it stopped although a cell runs"


def test_a_finished_run_is_whole_in_a_notebook_without_a_kernel(ready: LabPage, tmp_path: Path) -> None:
    page = ready
    page.open("whole.ipynb", ["%load_ext aprnb", _TRAIN.format(steps=30, output="whole")])
    page.run(0)
    page.run(1, timeout_s=120)
    saved = page.save("whole.ipynb")
    page.page.goto("about:blank")
    page.shut_down_kernels()
    saved["metadata"] = {"kernelspec": {"name": "none", "display_name": "None", "language": "none"}}
    (page.folder / "reopened.ipynb").write_text(json.dumps(saved), encoding="utf-8")
    page.page.goto(f"{page.url}/lab/tree/reopened.ipynb?token={page.token}&reset")
    page.page.locator(".jp-Dialog button.jp-mod-reject").click(timeout=60_000)  # "No Kernel"
    page.cell(1).get_by_text("Run finished").first.wait_for()
    picture = page.cell(1).locator("img[src^='data:image/png']")
    assert picture.evaluate("image => image.complete && image.naturalWidth > 500")
    page.cell(1).locator("summary").first.click()  # the steps
    assert page.cell(1).get_by_text("labelled tokens").first.is_visible()
    page.page.screenshot(path=tmp_path / "reopened.png")
