"""YAML files of plain values, read and written so that nothing is lost on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError


def read_config(file: Path) -> dict[str, Any]:
    """Read a mapping from names to plain values.

    Raises:
        ValueError: if the file is missing, is no YAML, or holds anything else, or a name twice.
    """
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=_NoRepeats)
    except OSError as error:
        raise ValueError(f"config must be a readable file, got {file}: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"config must be YAML, got {file}{where}: {error.problem}") from error
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"config must be YAML in UTF-8, got {file}: {_first_line(error)}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"config must map option names to values, such as 'eps: 0.1', got {file}")
    return content


class NestedAliasError(ComposerError):
    """A few lines of aliases of aliases would stand for more values than a memory holds."""


class PlainLoader(yaml.SafeLoader):
    """Builds plain values only, and refuses an alias within what has an anchor itself, before anything is built."""

    _anchors = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node, unless it is an alias within an anchor."""
        event: Any = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            if self._anchors:
                raise NestedAliasError(None, None, f"the alias *{event.anchor} within an anchor", event.start_mark)
            return super().compose_node(parent, index)
        anchored = event.anchor is not None
        self._anchors += anchored
        node = super().compose_node(parent, index)
        self._anchors -= anchored
        return node


class _NoRepeats(PlainLoader):
    """Builds plain values only, and takes no key twice: the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.value in seen if isinstance(key_node, yaml.ScalarNode) else False:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key_node.value} stands there twice", key_node.start_mark
                )
            seen.add(key_node.value if isinstance(key_node, yaml.ScalarNode) else id(key_node))
        return super().construct_mapping(node, deep)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def dump(value: Any, *, default_flow_style: bool | None, width: float, sort_keys: bool = True) -> str:
    """Write YAML that reads as it was: letters as they are, unless a line break of Unicode is among them.

    PyYAML writes U+0085, U+2028 and U+2029 as they are, and reads them back as the end of a line.
    """
    for as_is in (True, False):
        text = yaml.safe_dump(
            value, default_flow_style=default_flow_style, width=width, sort_keys=sort_keys, allow_unicode=as_is
        )
        if not set("\x85\u2028\u2029") & set(text):
            break
    return text
