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

    The command is called with those that are not None, as keyword arguments. The help of an option is what the "Args:"
    of its dataclass say about the field.

    Args:
        configs: dataclasses.
        panels: the heading that a field's option stands under, by the field's name or its class's.
        without: fields that become no options.
        flags: the names of an option on the command line, where they are not the field's.
        defaults: defaults other than the field's.
        presets: instances of the dataclasses, by name. Where they differ in a field, its option has no default, and
            the help shows theirs.
    """

    def option_of(config: Any, name: str, values: Mapping[Any, Any]) -> inspect.Parameter:
        kind, default = get_type_hints(config)[name], (defaults or {}).get(name, getattr(config, name))
        counts = kind == tuple[int, ...]
        presets_differ = len(set(values.values())) > 1
        option = typer.Option(
            ...,
            *(flags or {}).get(name, ()),
            help=_sentence(argument_docs(config).get(name, "")),
            rich_help_panel=panels.get(name) or panels[config.__name__],
            show_default=_in_words(values) if presets_differ else True,
            parser=parse_counts if counts else None,
            metavar="N,N,..." if counts else None,
        )
        default = None if presets_differ else default
        kind = str if counts else kind
        annotation: Any = Annotated[(kind | None if default is None else kind), option]
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)

    options = [
        option_of(
            config, field.name, {key: getattr(preset[place], field.name) for key, preset in (presets or {}).items()}
        )
        for place, config in enumerate(configs)
        for field in fields(config)
        if field.name not in without
    ]

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in signature.parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        own_names = {parameter.name for parameter in own}

        @wraps(command)
        def run(**given: Any) -> None:
            command(**{name: value for name, value in given.items() if value is not None or name in own_names})

        parameters = sorted([*own, *options], key=_panel)
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


def _in_words(values: Mapping[Any, Any]) -> str:
    """Say what an option is by default in each preset."""
    shown = {name: ",".join(map(str, value)) if isinstance(value, tuple) else value for name, value in values.items()}
    return "; ".join(f"{name}: {value if value != '' else 'none'}" for name, value in shown.items())


def _panel(parameter: inspect.Parameter) -> int:
    """Order arguments first, then options by their headings."""
    (information,) = parameter.annotation.__metadata__
    panel = getattr(information, "rich_help_panel", None)
    return PANELS.index(panel) if panel else -1


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
