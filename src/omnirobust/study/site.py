"""The page as one HTML file that needs nothing but itself: contents beside it, verdicts in colour, figures inside."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from omnirobust._files import replacing
from omnirobust.report.environment import environment

_VERDICT = re.compile(r"<strong>(true|false|undecided)</strong>")
_IMAGE = re.compile(r'<img src="([^"]+)"')


def write_site(page: Path) -> Path:
    """Write a page of ``reproduce`` as ``report.html`` beside it.

    Markup in the text is shown, not obeyed. Figures are those that lie beside the page.

    Args:
        page: the Markdown file.

    Returns:
        The file written.
    """
    title, sections = _sections(page.read_text(encoding="utf-8"), page.parent)
    text = environment().get_template("reproduction.html.j2").render(title=title, sections=sections)
    file = page.with_name("report.html")
    with replacing(file) as partial:
        partial.write_text(text, encoding="utf-8")
    return file


def _sections(text: str, folder: Path) -> tuple[str, list[dict[str, str]]]:
    """Return the page's title, and name, heading and HTML of each part that a second-level heading begins."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(text)
    starts = [i for i, token in enumerate(tokens) if token.type == "heading_open" and token.tag in ("h1", "h2")]
    title, sections = "", []
    for begin, end in zip(starts, [*starts[1:], len(tokens)], strict=True):
        heading = tokens[begin + 1].content
        body = _folded(parser, tokens[begin + 3 : end])
        if tokens[begin].tag == "h1":
            title = heading
            sections.append({"id": "about", "heading": "How to read this page", "body": body})
        else:
            name = re.sub(r"[^a-z0-9]+", "-", heading.partition(":")[0].lower()).strip("-")
            sections.append({"id": name, "heading": heading, "body": body})
    for section in sections:
        section["body"] = _dressed(section["body"], folder)
    return title, sections


def _folded(parser: MarkdownIt, tokens: list[Token]) -> str:
    """Render a section; its long list of every row is folded away under its heading."""
    folds = [
        i for i, t in enumerate(tokens) if t.type == "heading_open" and tokens[i + 1].content.endswith("every row")
    ]
    if not folds:
        return parser.renderer.render(tokens, parser.options, {})
    first = folds[0]
    above = parser.renderer.render(tokens[:first], parser.options, {})
    below = parser.renderer.render(tokens[first + 3 :], parser.options, {})
    return f"{above}<details><summary>Every row</summary>\n{below}</details>"


def _dressed(html: str, folder: Path) -> str:
    html = _VERDICT.sub(r'<strong class="\1">\1</strong>', html)
    html = html.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")
    return _IMAGE.sub(lambda found: f'<img src="{_embedded(folder, found.group(1))}"', html)


def _embedded(folder: Path, link: str) -> str:
    file = (folder / link).resolve()
    if folder.resolve() not in file.parents or file.suffix != ".svg" or not file.is_file():
        return ""
    return "data:image/svg+xml;base64," + base64.b64encode(file.read_bytes()).decode()
