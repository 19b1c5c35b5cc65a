"""The quickstart's page: a browser can read it, alone, and shows every text as it is."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from comem.quickstart import Answered, Case, Row, write_page
from comem.types import Example, ImageRef, KnowledgeItem

# HTML Living Standard, 13.1.2: elements without content and end tag.
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
# 13.2.6.4.7: a start tag of these closes an open paragraph, so that its own end tag would stand alone.
BLOCKS = {"div", "figure", "h1", "h2", "h3", "h4", "p", "section", "table"}
CHILDREN = {  # 4.9, 4.4.12: what these may hold, text aside
    "table": {"tr"},
    "tr": {"td", "th"},
    "html": {"head", "body"},
    "figure": {"img", "span", "figcaption"},
}
HOSTILE = '</p></td><script>alert("1")</script>& &amp; <img src=x onerror=y> {title} \' ]]> <!--'


class Page(HTMLParser):
    """Reads a page as the standard's grammar has it; any slip is an AssertionError."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.doctype = ""
        self.feed(html)
        self.close()
        assert self.open == [], f"left open: {self.open}"

    def handle_decl(self, decl: str) -> None:
        assert not self.seen and not self.doctype, "the doctype stands first, once"
        self.doctype = decl

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"<{tag}> repeats an attribute"
        parent = self.open[-1] if self.open else None
        assert tag in CHILDREN.get(parent or "", {tag}), f"<{tag}> in <{parent}>"
        assert not ("p" in self.open and tag in BLOCKS), f"<{tag}> inside a paragraph"
        self.seen.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def tags(self, name: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.seen if tag == name]

    @property
    def text(self) -> str:
        return "".join(self.texts)


def picture(colour: str = "red") -> ImageRef:
    buffer = io.BytesIO()
    Image.new("RGB", (900, 600), colour).save(buffer, format="PNG")
    return ImageRef(data=buffer.getvalue())


@pytest.fixture()
def path(tmp_path: Path) -> Path:
    """A page of ordinary, hostile and broken cases."""
    figure = io.BytesIO()
    Image.new("RGB", (40, 30)).save(figure, format="PNG")
    rows = [Row("baseline", 0.03, 0, 0.01, 200), Row(HOSTILE, 0.9, 330, 0.05, 200, 3)]
    item = KnowledgeItem("k1", HOSTILE, picture("blue"), language='zh" onclick="x')
    cases = [
        Case(
            Example("a", HOSTILE, picture(), (HOSTILE, "花岗岩"), language="zh"),
            (item, KnowledgeItem("k2", "строена от гранит", None, language="bg")),
            (Answered(HOSTILE, HOSTILE, True), Answered("b", "nul \x00 bell \x07 half \ud800", False)),
        ),
        Case(Example("z", "?", ImageRef(data=b"nothing")), (), (Answered("empty", "  ", False),)),
    ]
    write_page(tmp_path / "page.html", HOSTILE, [HOSTILE, "a < b"], {"towns": rows}, figure.getvalue(), cases)
    return tmp_path / "page.html"


def test_it_is_html(path: Path) -> None:
    raw = path.read_bytes()
    assert b'<meta charset="utf-8">' in raw[:1024]  # 4.2.5.4: within the first 1024 bytes
    page = Page(raw.decode("utf-8"))
    assert page.doctype == "doctype html"
    for once in ("html", "head", "title", "body", "h1"):
        assert len(page.tags(once)) == 1, once
    assert page.tags("html") == [{"lang": "en"}]
    headings, cells = len(page.tags("th")), len(page.tags("td"))
    assert (headings, cells) == (5, 2 * 5 + 3 * 3)  # two modes; three answers of label, mark and text


def test_it_needs_neither_server_nor_network(path: Path) -> None:
    page = Page(path.read_text(encoding="utf-8"))
    assert not page.tags("script") and not page.tags("link") and not page.tags("base")
    style = path.read_text(encoding="utf-8").split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style
    for tag, attributes in page.seen:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        for name in ("src", "href", "srcset", "data"):
            assert attributes.get(name, "data:image/png;base64,").startswith("data:image/png;base64,")


def test_its_pictures_open_and_say_what_they_are(path: Path) -> None:
    pictures = Page(path.read_text(encoding="utf-8")).tags("img")
    assert len(pictures) == 3  # the figure, a question, an item
    for attributes in pictures:
        assert "alt" in attributes
        with Image.open(io.BytesIO(base64.b64decode(attributes["src"].partition(",")[2]))) as opened:
            opened.load()
            assert opened.format == "PNG" and max(opened.size) <= 320
    text = Page(path.read_text(encoding="utf-8")).text
    assert "image cannot be read" in text and "no image" in text


def test_texts_are_shown_as_they_are(path: Path) -> None:
    page = Page(path.read_text(encoding="utf-8"))
    # title, heading, note, table, question, expected, answer's label and text, item
    assert page.text.count(HOSTILE) == 9
    assert "花岗岩" in page.text and "строена от гранит" in page.text and "a < b" in page.text
    assert "nul \ufffd bell \ufffd half \ufffd" in page.text and "nothing" in page.text
    assert "✓" in page.text and "✗" in page.text and "90.0 %" in page.text
    languages = [attributes["lang"] for _, attributes in page.seen if "lang" in attributes]
    assert languages == ["en", "zh", 'zh" onclick="x', "bg", "en"]


@pytest.mark.parametrize(
    "html", ["<!doctype html><b>", "<p><div></div></p>", "<table><td></td></table>", "<b></i>", "<!-- -->"]
)
def test_the_reader_notices_slips(html: str) -> None:
    with pytest.raises(AssertionError):
        Page(html)
