"""Text and HTML of the same document."""

from __future__ import annotations

from html.parser import HTMLParser

from aprnb.display.bundle import Displayed
from aprnb.display.document import Column, Details, Document, Fields, Messages, Paragraph, Picture, Table
from aprnb.display.html import to_html
from aprnb.display.text import to_text

HOSTILE = "<img src=x onerror=alert(1)>\"'&\u202e"
_VOID = {"br", "img", "input", "progress"}


class Elements(HTMLParser):
    """Collects elements and text; fails where a closing tag does not fit."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.seen)


def everything(word: str = "word") -> Document:
    table = Table(word, (Column(word), Column("bytes", "right")), ((word, 1024), ("other", None)), hidden=3)
    blocks = (
        Paragraph(word),
        Fields(((word, word, word),)),
        table,
        Messages("warning", (word,)),
        Details(word, (Paragraph(word), table)),
        Picture(b"\x89PNG", word),
    )
    return Document(word, "warning", blocks)


def test_text_and_html_contain_the_same_words():
    text, html = to_text(everything("wxyz")), Elements(to_html(everything("wxyz")))
    alts = [attributes["alt"] for tag, attributes in html.seen if tag == "img"]
    # title 1, paragraph 1, fields 3, table (title, head, cell) 3, message 1, details 1 + 1 + 3, picture 1
    assert text.count("wxyz") == 15
    assert alts == ["wxyz"]
    for word in ("1,024", "–", "warning", "3"):
        assert word in text
        assert word in html.text


def test_rendering_twice_gives_the_same_bytes():
    assert to_html(everything()) == to_html(everything())
    assert to_text(everything()) == to_text(everything())


def test_markup_from_a_file_stays_text_everywhere():
    page = Elements(to_html(everything(HOSTILE)))
    assert [attributes["src"][:15] for tag, attributes in page.seen if tag == "img"] == ["data:image/png;"]
    assert not any(name.startswith("on") for _, attributes in page.seen for name in attributes)
    assert "<img src=x onerror=alert(1)>" in page.text
    assert "⟨U+202E⟩" in page.text
    assert "\u202e" not in to_html(everything(HOSTILE))


def test_control_characters_do_not_reach_a_terminal():
    assert "\x1b" not in to_text(everything("\x1b[2J"))


def test_tables_have_captions_and_scoped_heads():
    page = Elements(to_html(everything()))
    heads = [attributes.get("scope") for tag, attributes in page.seen if tag == "th"]
    assert heads == ["row", "col", "col", "col", "col"]
    assert page.count("caption") == page.count("table") - 1, "one of the tables is the list of fields"
    assert "5 rows, 3 of them not shown" in page.text


def test_in_a_column_of_numbers_every_cell_has_a_key_to_sort_by():
    table = Table("t", (Column("a"), Column("n", "right")), (("x", None), ("y", 1024), ("z", "<many>")))
    page = Elements(to_html(Document("d", None, (table,))))
    keys = [attributes.get("data-order") for tag, attributes in page.seen if tag == "td"]
    assert keys == [None, "-1", None, "1024", None, "<many>"]


def test_the_verdict_is_a_sign_and_a_word():
    for status, shown in (("ok", "✓ ok"), ("warning", "⚠ warning"), ("failed", "✗ failed")):
        document = Document("file", status, ())
        assert shown in Elements(to_html(document)).text
        assert shown in to_text(document)


def test_numbers_align_right_and_wide_characters_take_two_columns():
    table = Table("t", (Column("name"), Column("n", "right")), (("名前", 5), ("abcd", 1000)))
    lines = to_text(Document("d", None, (table,))).splitlines()
    assert lines[-2:] == ["名前      5", "abcd  1,000"]


def test_a_displayed_object_gives_text_and_html():
    class Thing(Displayed):
        def document(self) -> Document:
            return Document("thing", "ok", ())

    bundle = Thing()._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}
    assert bundle["text/plain"] == str(Thing())
    assert Thing()._repr_mimebundle_(exclude=["text/html"]) == {"text/plain": str(Thing())}
