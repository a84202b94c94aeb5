"""The page: what was run, at which scale, on which machine; lines for the terminal; and all as one HTML file.

That file needs nothing but itself: contents beside it, verdicts in colour, figures inside.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from omnirobust._files import replacing
from omnirobust.jobs.report.environment import environment
from omnirobust.study.protocol import AnyOutcome, Verdict
from omnirobust.study.tables import NONE, table

TITLE = "What was run"


def overview(found: Sequence[AnyOutcome], note: str, command: str, machines: Sequence[str]) -> str:
    """Return the section.

    Args:
        found: the experiments, in order.
        note: how to read it.
        command: what asks for them.
        machines: what the cells were measured on, a sentence each.
    """
    head = ["experiment", "of", "images, or trainings", "measured", "true", "false", "open", "minutes"]
    parts = [f"## {TITLE}", f"    {command}", note]
    if machines:
        parts.append("Measured on:\n\n" + "\n".join(f"- {machine}" for machine in machines))
    parts.append(table(head, [_line(one) for one in found]))
    counted = {one.summary.name: one.summary.scales for one in found if one.summary.scales}
    return "\n\n".join([*parts, *([by_scale(counted)] if counted else [])]) + "\n"


SMALL = 200
"""Images that a row has at the least budget whose numbers are worth reading."""


def by_scale(rows: Mapping[str, Sequence[tuple[int, int]]]) -> str:
    """Return a table that counts rows by how many images they have.

    Args:
        rows: of each experiment, for each of its rows how many images it has and how many it should have.
    """
    kinds = (
        lambda n, asked: n == 0,
        lambda n, asked: 0 < n <= SMALL and n < asked,
        lambda n, asked: SMALL < n < asked,
        lambda n, asked: n > 0 and n >= asked,
    )
    head = [
        "rows of",
        "all",
        "to be measured",
        f"on up to {SMALL} images",
        "on more, not all",
        "on all that were asked",
    ]
    lines = [(name, [sum(kind(*row) for row in each) for kind in kinds]) for name, each in rows.items()]
    if len(lines) > 1:
        lines.append(("**all**", [sum(counts) for counts in zip(*[c for _, c in lines], strict=True)]))
    said = "How many rows of attacks were measured on how many images:"
    return f"{said}\n\n" + table(head, [[name, str(sum(counts)), *map(str, counts)] for name, counts in lines])


def in_brief(one: AnyOutcome) -> str:
    """Return one line on an experiment: its claims by verdict, counted as in the overview, and how much is measured."""
    seen = one.summary
    counts = Counter(seen.verdicts) or Counter({"not measured": seen.claims})
    said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in _ORDER if counts[verdict])
    total = counts.total()
    by = f" ({seen.judged_by})" if seen.judged_by else ""
    claims = f"{said} of {total} claim{'s' * (total > 1)}{by}" if total else "no claims"
    part = f", {seen.begun} of them in part" if seen.begun else ""
    return f"{seen.name} ({seen.title}): {claims}; {seen.done} of {seen.wanted} {seen.what} measured{part}"


_ORDER: tuple[Verdict, ...] = ("true", "false", "undecided", "not measured")


def _line(one: AnyOutcome) -> list[str]:
    seen, counts = one.summary, Counter(one.summary.verdicts)
    judged = [str(counts[verdict]) for verdict in ("true", "false")]
    left = str(counts.total() - counts["true"] - counts["false"])
    minutes = NONE if seen.seconds is None else f"{seen.seconds / 60:.1f}"
    return [seen.name, seen.title, seen.scale, f"{seen.done} of {seen.wanted}", *judged, left, minutes]


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
    # no HTML: titles and notes are of the user's own code, and the page may be sent on
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
