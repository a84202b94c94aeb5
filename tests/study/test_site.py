"""The HTML page holds what the Markdown page holds, needs nothing but itself, and obeys no markup from outside."""

import base64
import re
from html.parser import HTMLParser

import pytest

from omnirobust.study.page import write_site

PAGE = """# A title

Some words, 1 < 2.

## table-1: Things

| claim | paper |
| --- | --- |
| it <script>alert(1)</script> holds | **true** (99 %) |
| [a link](javascript:alert(1)) | **undecided** (3 %) |

![A picture](figures/one.svg)

![Elsewhere](https://example.org/two.svg) ![Outside](../secret.svg)

### table-1: every row

| a |
| --- |
| 7 |

## Other, things & all

Text.
"""


class Reader(HTMLParser):
    """Collects elements, their text, and the links that they hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.seen if name == tag]


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    (folder / "figures").mkdir()
    (folder / "figures" / "one.svg").write_text("<svg/>")
    (folder.parent / "secret.svg").write_text("<svg>secret</svg>")
    (folder / "reproduction.md").write_text(PAGE)
    return Reader(write_site(folder / "reproduction.md").read_text())


def test_parts_are_linked_from_the_contents(read):
    parts = [attrs["id"] for attrs in read.all("section")]
    assert parts == ["about", "table-1", "other-things-all"]
    assert [a["href"] for a in read.all("a") if str(a.get("href")).startswith("#")] == [f"#{part}" for part in parts]
    assert len(read.all("h1")) == 1
    assert len(read.all("details")) == 1


def test_verdicts_are_told_apart(read):
    assert [attrs.get("class") for attrs in read.all("strong")] == ["true", "undecided"]


def test_figures_are_inside_and_nothing_else_is_asked_for(read):
    sources = [attrs["src"] for attrs in read.all("img")]
    assert [bool(source) for source in sources] == [True, False, False]
    assert base64.b64decode(str(sources[0]).partition(",")[2]) == b"<svg/>"
    assert not [tag for tag, attrs in read.seen for value in attrs.values() if value and re.match(r"https?:", value)]


def test_markup_is_shown_not_obeyed(read):
    assert not read.all("script")
    assert "<script>alert(1)</script>" in read.text
    assert not [a for a in read.all("a") if "javascript" in str(a.get("href"))]
