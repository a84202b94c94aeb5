"""Options from a file: ``--config FILE.yaml`` and ``--set key=value``, under any command."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from omnirobust.cli.arguments import values_of
from omnirobust.cli.console import say
from omnirobust.cli.given import COMMAND, Given, code_named
from omnirobust.cli.yaml_files import NestedAliasError, PlainLoader, read_config

APART = ("out", "processes", "config", "settings", "help")
"""Options that say where and how a command runs, not what it does: they are left out of what reproduces a run."""

_FILE = "omnirobust.config"
"""Where a context keeps the file that was read, and its keys."""

_Settings = dict[str, str | list[str]]


def configurable(command: Callable[..., None]) -> Callable[..., None]:
    """Turn ``command(given, options)`` into one that takes ``--config`` and ``--set`` too, as typer reads it.

    A value on the command line stands, then one of ``--set``, then one of the file, then the default.
    """
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    def run(ctx: typer.Context, **values: Any) -> None:
        del values["config"], values["settings"]
        given = _given(ctx, values)
        _tell_code(ctx, given)
        try:
            command(given, **values)
        except ValueError as error:
            _tell_file(ctx, error)
            raise

    keyword = inspect.Parameter.KEYWORD_ONLY
    extra = [
        inspect.Parameter("config", keyword, default=None, annotation=Annotated[Path | None, _CONFIG]),
        inspect.Parameter("settings", keyword, default=None, annotation=Annotated[list[str] | None, _SET]),
    ]
    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    signature = inspect.Signature([context, *(p.replace(kind=keyword) for p in own), *extra])
    run.__name__, run.__doc__, run.__annotations__ = command.__name__, command.__doc__, {}
    run.__dict__["__signature__"] = signature
    return run


def _from_file(ctx: typer.Context, file: Path | None) -> Path | None:
    """Make the values of the file the defaults of this command."""
    if file is not None:
        content = read_config(file)
        _check_command(ctx, content.pop(COMMAND, None), file)
        _check_once(content, file)
        ctx.default_map = _checked(ctx, content.items(), f" of {file}") | dict(ctx.default_map or {})
        ctx.meta[_FILE] = (file, {key.replace("-", "_") for key in content})
    return file


def _tell_code(ctx: typer.Context, given: Given) -> None:
    """Say which code the file names, before any of it runs."""
    file, _ = ctx.meta.get(_FILE, (None, set()))
    sources = {_name(p): ctx.get_parameter_source(str(p.name)) for p in ctx.command.params} if file else {}
    of_file = [name for name, source in sources.items() if getattr(source, "name", "") == "DEFAULT_MAP"]
    found = [code for name in of_file for code in code_named(name, given.settings.get(name))]
    if found:
        say(f"Note: {file} names code, which is run now: {', '.join(dict.fromkeys(map(ascii, found)))}.")


def _tell_file(ctx: typer.Context, error: ValueError) -> None:
    """Raise the error again with the name of the file, if the option that it begins with was set there."""
    file, keys = ctx.meta.get(_FILE, (None, set()))
    option = next((o for name, o in _options(ctx).items() if str(error).startswith(f"{name} must ")), None)
    if option is None or type(error) is not ValueError or not keys & _names(option):
        return
    if getattr(ctx.get_parameter_source(option.name), "name", "") == "DEFAULT_MAP":
        raise ValueError(f"{error}, in {file}") from error


def _names(option: Any) -> set[str]:
    return {str(option.name), *(o.removeprefix("--").replace("-", "_") for o in option.opts)}


def _from_words(ctx: typer.Context, words: list[str] | None) -> list[str] | None:
    """Make the values of ``--set`` the defaults of this command, over those of a file."""
    pairs = []
    for word in words or ():
        key, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"set must be KEY=VALUE such as eps=0.1, got {word!r}")
        pairs.append((key.strip(), _plain(value)))
    if pairs:
        ctx.default_map = dict(ctx.default_map or {}) | _checked(ctx, pairs, "")
    return words


_CONFIG = typer.Option(
    help="YAML file with values for these options by name; those on the command line win.",
    is_eager=True, callback=_from_file,
)  # fmt: skip
_SET = typer.Option(
    "--set", metavar="KEY=VALUE", help="Set an option by name, over the file; can be repeated.",
    is_eager=True, callback=_from_words,
)  # fmt: skip


def _plain(text: str) -> Any:
    """Read a value as YAML would where that gives a list, a flag, nothing or text; a number stays as it is written."""
    try:
        value = yaml.load(text, Loader=PlainLoader)
    except NestedAliasError as error:
        raise ValueError(f"set must be plain YAML, got {error.problem}") from error
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError):
        return text
    return value if value is None or isinstance(value, (bool, list, str)) else text


def _check_command(ctx: typer.Context, wanted: object, file: Path) -> None:
    words = " ".join(_command(ctx))
    if wanted is not None and wanted != words:
        raise ValueError(f"config must be for {words}, got {file}, which is for {wanted}")


def _check_once(keys: Iterable[str], file: Path) -> None:
    """Raise ValueError if an option is named in two ways, of which the first would be lost without a word."""
    seen: dict[str, str] = {}
    for key in keys:
        if (other := seen.setdefault(key.replace("-", "_"), key)) != key:
            raise ValueError(f"config must name each option once, got {other} and {key} in {file}")


def _command(ctx: typer.Context) -> tuple[str, ...]:
    """Return the words of the command, without the program's name."""
    words: list[str] = []
    at: Any = ctx
    while at.parent is not None:
        words.insert(0, str(at.info_name))
        at = at.parent
    return tuple(words)


def _checked(ctx: typer.Context, pairs: Iterable[tuple[str, Any]], where: str) -> _Settings:
    """Return the values by parameter name, as texts that typer reads like words of the command line."""
    options = _options(ctx)
    found: _Settings = {}
    for key, value in pairs:
        option = options.get(key.replace("-", "_"))
        if option is None:
            nearest = get_close_matches(key.replace("-", "_"), options, 1, 0.0)
            hint = f"the nearest is {nearest[0]}" if nearest else "it has none"
            raise ValueError(f"The key {key!r}{where} is no option of {' '.join(_command(ctx))}: {hint}")
        if value is not None:
            found[str(option.name)] = _fitting(ctx, key, value, option, where)
    return found


def _fitting(ctx: typer.Context, key: str, value: object, option: Any, where: str) -> str | list[str]:
    """Return the value as it would stand on the command line, if the option takes it.

    Raises:
        ValueError: if not; it names key, value and file.
    """
    try:
        texts = _texts(key, value, option)
    except ValueError as error:
        raise ValueError(f"{error}{where.replace(' of ', ', in ', 1)}") from error
    try:
        option.process_value(ctx, texts)
    except Exception as error:  # of click, or of a parser of ours
        reason = str(getattr(error, "message", error)).strip() or f"{key} must have a value"  # of an empty list
        said = reason.splitlines()[0].removeprefix("Value error, ").rstrip(".")
        raise ValueError(f"The value {_shown(value)} of {key!r}{where} does not fit: {said}") from error
    return texts


def _options(ctx: typer.Context) -> dict[str, Any]:
    """Return the options that a file may set, by all their names."""
    return {
        name: option
        for option in ctx.command.params
        if option.name not in ("config", "settings", "help")
        for name in _names(option)
    }


def _texts(key: str, value: object, option: Any) -> str | list[str]:
    """Return the value as it would stand on the command line."""
    if getattr(option, "is_flag", False):
        if str(value).lower() not in ("true", "false"):
            raise ValueError(f"{key} must be true or false, got {_shown(value)}")
        return str(value).lower()
    if option.nargs > 1:
        return [_scalar(key, part) for part in (value if isinstance(value, list) else _scalar(key, value).split())]
    if not option.multiple:
        return _scalar(key, value)
    parts = value if isinstance(value, list) else values_of(_scalar(key, value))
    return [_scalar(key, part) for part in parts]


def _scalar(key: str, value: object) -> str:
    if isinstance(value, bool):
        raise ValueError(f"{key} must be text or a number, got {value}: write text such as yes or no in quotes")
    if not isinstance(value, (str, int, float)):
        raise ValueError(f"{key} must be text or a number, got {_shown(value)}")
    return str(value)


def _shown(value: object) -> str:
    """Name a value of a kind that does not fit; a nested one may be too long to be shown."""
    names = {list: "a list", dict: "a mapping"}
    return names.get(type(value)) or repr(value)


def _given(ctx: typer.Context, values: Mapping[str, Any]) -> Given:
    names = {str(p.name): _name(p) for p in ctx.command.params}
    kept = {key: value for key, value in values.items() if key not in APART and value is not None and value != []}
    usual = {str(p.name): _written(p.default) for p in ctx.command.params}
    given = {names[key] for key, value in kept.items() if _written(value) != usual[key]}
    return Given(_command(ctx), {names[key]: _written(value) for key, value in kept.items()}, frozenset(given))


def _name(option: Any) -> str:
    """Return the name of an option as the command line has it, with underscores."""
    return option.opts[0].removeprefix("--").replace("-", "_")


def _written(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_written(part) for part in value]
    return value if isinstance(value, (bool, int, float)) else str(value)
