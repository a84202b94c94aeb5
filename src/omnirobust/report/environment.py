"""Where the pages' templates are, and how they are filled in."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape


def environment() -> Environment:
    """Return the templates' environment: everything escaped, and what is missing an error."""
    return Environment(
        loader=PackageLoader("omnirobust.report"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
