"""Let the reference show the options that recipes share: Griffe reads the source, where they are ``**options``."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from typing import Any

import griffe

from omnirobust.attacks.options import OPTIONS, TYPES


class SharedOptions(griffe.Extension):
    """Gives recipes the parameters and the docstring that ``help`` shows."""

    def on_function_instance(self, *, func: griffe.Function, **_: Any) -> None:
        """Fill in a function that is decorated by ``with_options``."""
        if not any("with_options" in str(d.value) for d in func.decorators):
            return
        recipe = getattr(import_module(func.module.path), func.name)
        shown = inspect.signature(recipe).parameters
        own = [p for p in func.parameters if p.kind is not griffe.ParameterKind.var_keyword]
        func.parameters = griffe.Parameters(*own, *(_parameter(name) for name in OPTIONS if name in shown))
        if func.docstring is not None:
            func.docstring.value = inspect.getdoc(recipe) or ""


def _parameter(name: str) -> griffe.Parameter:
    annotation = re.sub(r"\b(?:\w+\.)+(?=\w)", "", inspect.formatannotation(TYPES[name]))
    default = repr(OPTIONS[name].default)
    return griffe.Parameter(name, annotation=annotation, kind=griffe.ParameterKind.keyword_only, default=default)
