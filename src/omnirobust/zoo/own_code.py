"""Objects of the user's own code: FILE.py:NAME or package.module:NAME."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Any

HUBS = ("timm:", "hf:", "rb:")
"""How sources begin that name a model of somebody else's collection, and no code of one's own."""


def load_own(name: str, argument: str) -> tuple[str, Any]:
    """Load what FILE.py:NAME or package.module:NAME names.

    Args:
        name: of the code.
        argument: what messages call it.

    Returns:
        NAME, and what it stands for.

    Raises:
        ValueError: if there is no such thing, or the code fails.
        FileNotFoundError: if there is no such file.
    """
    where, _, attribute = name.rpartition(":")
    try:
        found = getattr(_module(where, argument), attribute, None)
    except (ValueError, FileNotFoundError):
        raise
    except (Exception, SystemExit) as error:  # whatever the user's own code raises; scripts may end the process
        raise ValueError(broken(name, argument, error)) from error
    if found is None:
        raise ValueError(f"{argument} must name something that exists, got {name}, but {where} has no {attribute}")
    return attribute, found


def digests(names: Iterable[str]) -> dict[str, str]:
    """Return a digest of every file of one's own code among ``names``, so that runs of edited code are told apart.

    Files go by their names, wherever they lie: two of one name have both their digests under it.
    """
    found: dict[str, str] = {}
    for where in sorted({where for where in map(_code_of, names) if where}):
        file = _file_of(where)
        if file is not None and file.is_file():
            name = Path(where).name if where.endswith(".py") else where
            found[name] = found.get(name, "") + hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest()
    return found


def _code_of(name: str) -> str:
    """Return the file or package that ``name`` is code of; nothing where it is none."""
    return "" if name.startswith(HUBS) else name.rpartition(":")[0]


def _file_of(where: str) -> Path | None:
    if where.endswith(".py"):
        return Path(where)
    try:
        spec = importlib.util.find_spec(where)
    except (ImportError, ValueError):  # "rot:-30..30" is no module
        return None
    return None if spec is None or spec.origin is None else Path(spec.origin)


def is_own(code: Any) -> bool:
    """Say whether a class or function is of the user's own code."""
    module = getattr(code, "__module__", None) or "builtins"
    return module.partition(".")[0] not in ("omnirobust", "torch", *sys.stdlib_module_names)


def source_digest(code: Any) -> str:
    """Return a digest of the source of a class or function; "unknown" where it has no file."""
    try:
        return hashlib.blake2b(inspect.getsource(code).encode(), digest_size=4).hexdigest()
    except (OSError, TypeError):
        return "unknown"


def broken(name: str, argument: str, error: BaseException) -> str:
    """Say in one sentence that the code of ``name`` raised ``error``, and in which line of its file."""
    file = Path(name.rpartition(":")[0]).resolve()
    lines = [frame.lineno for frame in extract_tb(error.__traceback__) if Path(frame.filename).resolve() == file]
    where = f" (line {lines[-1]})" if lines else ""
    return f"{argument} must name code that runs, got {name}: {type(error).__name__}: {error}{where}"


def _module(where: str, argument: str) -> ModuleType:
    if not where.endswith(".py"):
        if not where:
            raise ValueError(f"{argument} must name a file or a module before the colon, got none")
        _see(Path.cwd())  # the installed command does not, other than "python -m"
        try:
            return importlib.import_module(where)
        except ModuleNotFoundError as error:
            raise ValueError(f"{argument} must name an importable module, got {where}: {error}") from error
    if not Path(where).is_file():
        raise FileNotFoundError(f"{argument} must name an existing file, got {where}")
    spec = importlib.util.spec_from_file_location(f"omnirobust_user_{Path(where).stem}", where)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for their module there, and so does who asks for their source
    _see(Path(where).resolve().parent)
    spec.loader.exec_module(module)
    return module


def _see(folder: Path) -> None:
    """Let modules be imported from ``folder``: last of all, so that what lies there hides nothing that is installed."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
