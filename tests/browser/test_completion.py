"""Tab completion of `%apr_inspect` in a real JupyterLab, in a folder with hostile file names."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from .lab import LabPage

HOSTILE = '{open("X","w").write("x")}.apr'
WITH_APOSTROPHES = "{open('X','w').write('x')}.apr"
NAMES = (HOSTILE, WITH_APOSTROPHES, "my model.apr", "plain.apr", "-dashed.apr")
# Text typed after the magic, completion accepted, file that the card shows.
ACCEPTED = (
    ("{op", f"'{HOSTILE}'", HOSTILE),
    ("my", "'my model.apr'", "my model.apr"),
    ('"my', '"my model.apr"', "my model.apr"),
    ("'my", "'my model.apr'", "my model.apr"),
    ('"{op', f"'{HOSTILE}'", HOSTILE),
    ("-d", "./-dashed.apr", "-dashed.apr"),
)


def test_a_completed_name_opens_its_file_and_executes_nothing(page: LabPage, pocket_qwen3: Path) -> None:
    folder = page.folder / "downloaded"
    folder.mkdir()
    for name in NAMES:
        shutil.copy(pocket_qwen3, folder / name)
    page.open("downloaded/names.ipynb", ["%load_ext aprnb", *("" for _ in ACCEPTED)])
    page.run(0)
    for number, (typed, accepted, name) in enumerate(ACCEPTED, 1):
        items = complete(page, number, f"%apr_inspect {typed}")
        offered = [item.get_attribute("data-value") for item in items.all()]
        assert not [text for text in offered if WITH_APOSTROPHES in text]
        items.nth(offered.index(accepted)).click()
        assert page.cell(number).locator(".cm-content").inner_text() == f"%apr_inspect {accepted}"
        assert f"{name} " in page.run(number).replace("\xa0", " ")
    assert not (folder / "X").exists()
    shutil.rmtree(folder)


def complete(page: LabPage, number: int, line: str) -> Any:
    """The items of the completer after this line and Tab; JupyterLab drops an answer that takes more than a second."""
    page.cell(number).locator(".cm-content").click()
    page.page.keyboard.type(line)
    items = page.page.locator(".jp-Completer:not(.lm-mod-hidden) .jp-Completer-item")
    for tick in range(300):
        if items.count():
            return items
        if tick % 30 == 0:
            page.page.keyboard.press("Tab")
        page.page.wait_for_timeout(50)
    raise AssertionError(f"no completion of {line}")
