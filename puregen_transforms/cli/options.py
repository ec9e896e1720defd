"""Command-line options made of the fields of dataclasses: name, choices, default and help are the field's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, replace
from functools import wraps
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from puregen_transforms._docs import argument_docs

METHOD, NETWORKS, DATA, RUNNING = "Method", "Networks", "Data", "Running"
PANELS = (METHOD, NETWORKS, DATA, RUNNING)
"""Headings of the options in a command's help, in order."""

Command = Callable[..., None]
Config = TypeVar("Config")


def options_of(
    *configs: Any,
    panels: Mapping[str, str],
    without: Collection[str] = (),
    flags: Mapping[str, Sequence[str]] | None = None,
    defaults: Mapping[str, Any] | None = None,
    presets: Mapping[Any, Sequence[Any]] | None = None,
) -> Callable[[Command], Command]:
    """Give a command the fields of dataclasses as options.

    The command is called with those that are not None, as keyword arguments.

    The help of an option is what the "Args:" of its dataclass say about the field.

    Args:
        configs: dataclasses.
        panels: the heading that a field's option stands under, by the field's name or its class's.
        without: fields that become no options.
        flags: the names of an option on the command line, where they are not the field's.
        defaults: defaults other than the field's.
        presets: instances of the dataclasses, by name. Where they differ in a field, its option has no default, and
            the help shows theirs.
    """
    flags, defaults = flags or {}, defaults or {}

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in signature.parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        options = []
        for place, config in enumerate(configs):
            docs, types = argument_docs(config), get_type_hints(config)
            for field in fields(config):
                if field.name in without:
                    continue
                values = {name: getattr(instances[place], field.name) for name, instances in (presets or {}).items()}
                differ = len(set(values.values())) > 1
                option = typer.Option(
                    ...,
                    *flags.get(field.name, ()),
                    help=_sentence(docs.get(field.name, "")),
                    rich_help_panel=panels.get(field.name) or panels[config.__name__],
                    show_default=_in_words(values) if differ else True,
                    **_as_list(types[field.name]),
                )
                default = None if differ else defaults.get(field.name, field.default)
                options.append(_parameter(field.name, types[field.name], option, default))
        parameters = sorted([*own, *options], key=_panel)

        @wraps(command)
        def run(**given: Any) -> None:
            names = {option.name for option in options}
            command(**{name: value for name, value in given.items() if value is not None or name not in names})

        vars(run)["__signature__"] = signature.replace(parameters=parameters)
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def changed(config: Config, settings: Mapping[str, Any]) -> Config:
    """Replace those fields of a dataclass that are among the settings."""
    known = {field.name for field in fields(config)}  # type: ignore[arg-type]
    return replace(config, **{name: value for name, value in settings.items() if name in known})  # type: ignore[type-var]


def parse_counts(text: str) -> tuple[int, ...]:
    """Read whole numbers between commas; an empty text is none."""
    try:
        return tuple(int(part) for part in text.split(",") if part)
    except ValueError as error:
        raise typer.BadParameter(f"expected numbers like 128,256, but got {text!r}.") from error


def _parameter(name: str, kind: Any, option: Any, default: Any) -> inspect.Parameter:
    if option.parser is not None:
        kind = str
    if default is None:
        kind = kind | None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def _in_words(values: Mapping[Any, Any]) -> str:
    """Say what an option is by default in each preset."""
    shown = {name: ",".join(map(str, value)) if isinstance(value, tuple) else value for name, value in values.items()}
    return "; ".join(f"{name}: {value if value != '' else 'none'}" for name, value in shown.items())


def _as_list(kind: Any) -> dict[str, Any]:
    return {"parser": parse_counts, "metavar": "N,N,..."} if kind == tuple[int, ...] else {}


def _panel(parameter: inspect.Parameter) -> int:
    """Order arguments first, then options by their headings."""
    (information,) = parameter.annotation.__metadata__
    panel = getattr(information, "rich_help_panel", None)
    return -1 if isinstance(information, typer.models.ArgumentInfo) or panel is None else PANELS.index(panel)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
