"""`%apr_convert` in a real JupyterLab: the bar while tensors are written, the result that stays, the Stop button."""

from __future__ import annotations

from pathlib import Path

from aprnb_tests.large import large_qwen3

from .lab import LabPage, output_kinds


def test_the_bar_fills_and_what_is_saved_is_static(page: LabPage, tmp_path: Path) -> None:
    large_qwen3(page.folder / "large.apr")
    page.open("convert.ipynb", ["%load_ext aprnb", "%apr_convert large.apr large-q4.apr --dtype q4_k", "_.tensors"])
    page.run(0)
    page.start(1)
    bar = page.cell(1).locator("progress.aprnb-progress")
    bar.wait_for(timeout=30_000)
    first = bar.evaluate("bar => bar.value")
    page.page.wait_for_function(
        "first => document.querySelector('progress.aprnb-progress')?.value > first", arg=first, timeout=30_000
    )
    page.page.screenshot(path=tmp_path / "bar.png")
    page.wait_for_end(1)
    assert bar.count() == 0
    shown = page.output_text(1)
    assert "Converted large-q4.apr" in shown
    page.page.screenshot(path=tmp_path / "converted.png")
    assert page.run(2).endswith("25")  # two layers of eleven, embedding, last norm, and the tied head

    saved = page.save("convert.ipynb")
    assert not any("widget" in kind or "javascript" in kind for kind in output_kinds(saved))
    assert "progress" not in str(saved["cells"][1]["outputs"])
    for name in ("large.apr", "large-q4.apr"):
        (page.folder / name).unlink()


def test_an_interrupt_ends_the_conversion_and_leaves_no_file(page: LabPage) -> None:
    large_qwen3(page.folder / "large.apr")
    page.open("stop.ipynb", ["%load_ext aprnb", "%apr_convert large.apr stopped.apr --dtype q4_k"])
    page.run(0)
    page.start(1)
    bar = page.cell(1).locator("progress.aprnb-progress")
    bar.wait_for(timeout=30_000)
    page.interrupt_kernels()
    page.wait_for_end(1)
    assert bar.count() == 0
    assert not [path.name for path in page.folder.iterdir() if "stopped" in path.name]
    (page.folder / "large.apr").unlink()
