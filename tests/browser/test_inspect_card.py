"""`%apr_inspect` in a real JupyterLab: the card, its tables, and what a hostile file can do to it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from aprnb.formats.apr.writer import TensorSource, write_apr
from aprnb.formats.dtypes import F32

from .lab import LabPage, output_kinds

# The colour behind an element is that of the nearest ancestor that has one.
_COLOURS = r"""element => {
  let behind = element;
  while (behind && getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
  const numbers = text => text.match(/[\d.]+/g).slice(0, 3).map(Number);
  return [getComputedStyle(behind).backgroundColor, getComputedStyle(element).color].map(numbers);
}"""


def _contrast(back: list[float], front: list[float]) -> float:
    """The contrast ratio of WCAG 2.2, from 1 to 21."""

    def luminance(colour: list[float]) -> float:
        parts = [part / 255 for part in colour]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(back), luminance(front)))
    return (light + 0.05) / (dark + 0.05)


HOSTILE = (
    "<script>alert('name')</script>",
    "<img src=x onerror=alert('image')>",
    "&lt;img src=x onerror=alert('twice')&gt;",
    "a\u202egnp.exe",
    "</script><script>alert('close')</script>",
)


@pytest.fixture
def pocket(page: LabPage, pocket_qwen3: Path) -> LabPage:
    shutil.copy(pocket_qwen3, page.folder / "pocket.apr")
    return page


def test_the_card_sorts_searches_pages_and_shows_the_entry_of_a_selected_tensor(
    pocket: LabPage, tmp_path: Path
) -> None:
    page = pocket
    page.open("inspect.ipynb", ["%load_ext aprnb", "%apr_inspect pocket.apr"])
    page.run(0)
    page.run(1)
    box = page.cell(1).locator(".dt-container:has(input[type=search])")
    table = box.locator("table.aprnb-table.dataTable")
    table.wait_for()
    assert table.locator("tbody tr").count() == 10, "one page"
    page.page.screenshot(path=tmp_path / "card.png")

    box.locator("input[type=search]").fill("layers.2.mlp")
    assert table.locator("tbody tr").count() == 3
    assert "filtered from 36" in box.inner_text()

    box.locator("input[type=search]").fill("")
    bytes_head = table.locator("thead th", has_text="bytes")
    for order in ("ascending", "descending"):
        bytes_head.click()
        table.locator(f"thead th[aria-sort={order}]").wait_for()
    sizes = [int(text.replace(",", "")) for text in table.locator("tbody tr td:nth-child(4)").all_inner_texts()]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 1024 * 128 * 2, "the embedding: 1024 x 128 BF16"

    box.locator("button.dt-paging-button", has_text="4").click()
    assert table.locator("tbody tr").count() == 6, "36 entries, ten to a page"

    row = table.locator("tbody tr").nth(0)
    name = row.locator("td").nth(0).inner_text()
    row.locator("td").nth(0).click()
    entry = page.cell(1).locator(".aprnb-entry:visible")
    assert name in entry.inner_text()
    terms = [term.inner_text() for term in entry.locator("dt").all()]
    assert terms == ["name", "dtype", "shape", "bytes", "symbolic shape", "offset"]
    entry.scroll_into_view_if_needed()
    page.page.screenshot(path=tmp_path / "entry.png")

    saved = page.save("inspect.ipynb")
    assert not any("widget" in kind for kind in output_kinds(saved))
    assert "widgets" not in saved["metadata"]


def test_only_one_cell_of_a_kernel_session_contains_the_script(pocket: LabPage) -> None:
    page = pocket
    page.open("once.ipynb", ["%load_ext aprnb", "%apr_inspect pocket.apr", "%apr_check pocket.apr"])
    for number in (0, 1, 2, 1):
        page.run(number)
    for number in (1, 2):
        page.cell(number).locator("table.dataTable").first.wait_for(state="attached")
    html = [
        "".join(output["data"]["text/html"]) for cell in page.save("once.ipynb")["cells"] for output in cell["outputs"]
    ]
    large = [len(text) > 500_000 for text in html]
    assert large == [True, False]


def test_the_tables_follow_the_dark_theme(pocket: LabPage, tmp_path: Path) -> None:
    page = pocket
    page.open("dark.ipynb", ["%load_ext aprnb", "%apr_inspect pocket.apr"])
    page.run(0)
    page.run(1)
    page.cell(1).locator("table.dataTable").first.wait_for(state="attached")
    page.choose_theme("JupyterLab Dark")
    colours = []
    page.page.screenshot(path=tmp_path / "dark.png")
    for selector in (".dt-container", ".dt-search input", "table.aprnb-table thead th", "caption"):
        shown = page.cell(1).locator(selector).last
        colours.append((selector, *shown.evaluate(_COLOURS)))
    page.choose_theme("JupyterLab Light")
    for selector, back, front in colours:
        assert _contrast(back, front) >= 4.5, selector


def test_names_from_a_malicious_file_are_shown_and_not_run(page: LabPage, tmp_path: Path) -> None:
    data = bytes(8)
    sources = [TensorSource(name, F32, (2,), lambda: data) for name in HOSTILE]
    metadata = {"architecture": "<b onmouseover=alert('meta')>qwen2</b>", "name": "<script>alert('title')</script>"}
    write_apr(page.folder / "hostile.apr", metadata, sources)
    page.open("hostile.ipynb", ["%load_ext aprnb", "%apr_inspect hostile.apr"])
    page.run(0)
    text = page.run(1)
    table = page.cell(1).locator("table.aprnb-table.dataTable", has_text="onerror").first
    table.wait_for()
    assert "<img src=x onerror=alert('image')>" in text
    assert "a⟨U+202E⟩gnp.exe" in text
    for row in table.locator("tbody tr").all():
        row.locator("td").first.click()
    table.locator("thead th").first.click()
    assert page.cell(1).locator(".aprnb-entry").last.inner_text()
    page.page.wait_for_timeout(300)
    page.page.screenshot(path=tmp_path / "hostile.png")
    assert page.dialogs == []
    assert page.cell(1).locator("img[src=x]").count() == 0


def test_without_trust_the_static_table_is_shown(pocket: LabPage) -> None:
    page = pocket
    page.open("trust.ipynb", ["%load_ext aprnb", "%apr_inspect pocket.apr"])
    page.run(0)
    page.run(1)
    saved = page.save("trust.ipynb")
    for output in saved["cells"][1]["outputs"]:
        output["data"]["text/plain"] = "changed elsewhere, so that the signature no longer holds"
    (page.folder / "fresh.ipynb").write_text(json.dumps(saved), encoding="utf-8")
    page.page.goto(f"{page.url}/lab/tree/fresh.ipynb?token={page.token}&reset")
    page.wait_until_ready()
    table = page.cell(1).locator("table.aprnb-table", has_text="model.embed_tokens.weight")
    table.wait_for()
    assert page.cell(1).locator(".dt-container").count() == 0
    assert table.locator("tbody tr").count() == 36
