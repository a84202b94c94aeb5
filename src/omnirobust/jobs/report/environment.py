"""Where the pages' templates are, and how they are filled in."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from types import CodeType

from jinja2 import BytecodeCache, Environment, PackageLoader, StrictUndefined, select_autoescape
from jinja2.bccache import Bucket
from markupsafe import Markup

COPY = """for (const button of document.querySelectorAll(".again button")) {
  button.addEventListener("click", async () => {
    const code = button.previousElementSibling;
    try { await navigator.clipboard.writeText(code.textContent); button.textContent = "Copied"; }
    catch { getSelection().selectAllChildren(code); button.textContent = "Selected"; }
  });
}"""
"""What the button beside a command does; nothing else runs on a page."""

_COPY_HASH = b64encode(sha256(COPY.encode()).digest()).decode()

POLICY = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{_COPY_HASH}'"
"""What a browser may load and run for a page: what is in it, and one script, known by its digest."""


def words(command: str) -> Markup:
    """Return a command whose lines break between its words: a browser would part an option from its dashes."""
    return Markup(" ").join(Markup("<span>{}</span>").format(word) for word in command.split(" "))


class _Compiled(BytecodeCache):
    """What templates were compiled to, for as long as the process lives: that takes longer than to fill them in."""

    def __init__(self) -> None:
        self._codes: dict[tuple[str, str], CodeType] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        bucket.code = self._codes.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: Bucket) -> None:
        assert bucket.code is not None
        self._codes[bucket.key, bucket.checksum] = bucket.code


_COMPILED = _Compiled()


def environment() -> Environment:
    """Return the templates' environment: everything escaped, and what is missing an error."""
    env = Environment(
        loader=PackageLoader("omnirobust.jobs.report"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        bytecode_cache=_COMPILED,
    )
    env.globals |= {"copy": Markup(COPY), "policy": Markup(POLICY), "words": words}
    return env
