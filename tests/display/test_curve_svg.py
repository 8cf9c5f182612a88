"""The inline curve of the live panel."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from aprnb.display.curve_svg import curve_svg


def rows(count: int) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    steps = [{"step": n, "loss": 1 + 3 / n, "learning_rate": 1e-4 / n} for n in range(1, count + 1)]
    return steps, [{"step": n, "eval_loss": 2.0 + n / count} for n in (0, count // 2, count)]


def parts(svg: str) -> dict[str, list[ElementTree.Element]]:
    root = ElementTree.fromstring(svg)
    return {name: list(root.iter(name)) for name in ("polyline", "circle", "text")}


def texts(svg: str) -> list[str | None]:
    return [text.text for text in parts(svg)["text"]]


def test_few_steps_are_markers_and_a_single_one_is_seen():
    steps, _ = rows(1)
    found = parts(curve_svg(steps, []))
    assert len(found["circle"]) == 2, "its loss and its learning rate"
    assert not found["polyline"]
    steps, evals = rows(20)
    assert len(parts(curve_svg(steps, evals))["circle"]) == 20 + 3


def test_many_steps_are_a_smoothed_line_over_the_faint_losses():
    found = parts(curve_svg(*rows(500)))
    faint, smooth, held_out, rate = found["polyline"]
    assert faint.get("opacity") == "0.4"
    assert float(smooth.get("stroke-width", 0)) > float(faint.get("stroke-width", 9))
    assert held_out.get("stroke-dasharray")
    assert len(found["circle"]) == 3, "evaluations"
    lowest_loss = max(float(place.split(",")[1]) for place in faint.get("points", "").split())
    highest_rate = min(float(place.split(",")[1]) for place in rate.get("points", "").split())
    assert lowest_loss < highest_rate, "the strip is below the losses"


def test_the_legend_is_above_every_line():
    svg = curve_svg(*rows(500))
    names = {text.text: float(text.get("y", 0)) for text in parts(svg)["text"]}
    highest = min(
        float(place.split(",")[1]) for line in parts(svg)["polyline"] for place in line.get("points", "").split()
    )
    for name in ("training loss", "smoothed", "held-out loss"):
        assert names[name] < highest


def test_ten_thousand_steps_take_no_more_room_than_a_thousand():
    assert len(curve_svg(*rows(10_000))) < 20_000


def test_texts_have_the_colour_of_the_theme_and_of_the_page_where_there_is_none():
    svg = curve_svg(*rows(30))
    assert re.search(r"<text [^>]*fill: var\(--jp-content-font-color1, currentColor\)", svg)


def test_a_curve_without_steps_can_be_drawn():
    assert "training curve without steps" in curve_svg([], [])


def test_texts_are_escaped(monkeypatch):
    monkeypatch.setattr("aprnb.display.curve_svg.curve_words", lambda *_: '"><script>alert(1)</script>')
    monkeypatch.setattr("aprnb.display.curve_svg.short_rate", lambda _: "<b>")
    svg = curve_svg(*rows(3))
    assert "<script" not in svg
    assert "<b>" not in svg
