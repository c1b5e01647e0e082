"""Commands made of option dataclasses: their parameters, YAML files, help, errors and exit codes. No torch.

A command is a function whose parameters are dataclasses of options (`tenreo.options`). Its signature on the command
line is all of their fields; `Recipe` takes those of `RateOptions` in place of its rate, and `list[Recipe]` several
values of `-g` and `-r`.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import MISSING, Field, fields
from itertools import product
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from tenreo.cli.options import RateOptions
from tenreo.cli.terminal.streams import discard, note
from tenreo.cli.yaml_files import NEEDLESS, RATE_KEYS, RENAMED, RENAMED_VALUES, read_yaml
from tenreo.errors import TenreoError, shown
from tenreo.models.names import architecture_names
from tenreo.options import check_number, options_of, types_of
from tenreo.planning.recipe import Recipe

SHORT = {"arch": "-a", "model": "-m", "groups": "-g", "rate": "-r", "out": "-o", "jobs": "-j", "batch_size": "-b"}
PANELS = {
    "DenseModel": "Model", "File": "Model", "Files": "Model", "ModelFile": "Model", "RateOptions": "Rate or size",
    "Recipe": "Recipe",
    "Statistics": "Statistics", "Matching": "Statistics", "Settings": "Training",
    "Evaluated": "Data", "SweepData": "Data", "Layout": "Data", "TrainingData": "Data",
}  # fmt: skip
_OTHER_PANEL = "Files and running"
# What to type, where a command was given too little.
EXAMPLES = {
    "compress": "tenreo compress --arch mobilenet_v2 -g 4 -r 0.5 --progressive",
    "evaluate": "tenreo evaluate model.safetensors --data imagenet",
    "finetune": "tenreo finetune compressed.safetensors --data imagenet",
    "inspect": "tenreo inspect model.safetensors",
    "export": "tenreo export model.safetensors --to model.onnx",
    "sweep": "tenreo sweep --arch mobilenet_v2 -g 4 8 -r 0.5 1 --progressive",
}
METAVARS = {
    "arch": "NAME", "device": "NAME", "target_size": "SIZE", "target_params": "NUMBER", "weights": "NAME|FILE|none",
    "include": "PATTERN", "exclude": "PATTERN", "importance": "PATTERN=W", "calibrate": "DIR|digits",
    "data": "DIR|digits", "against": "dense|FILE", "model": "SOURCE:NAME", "input": "CxHxW", "mean": "M,M,M",
    "std": "S,S,S", "to": "FILE",
    "predictions": "FILE", "confusion": "FILE",
    "labels": "FILE", "class_map": "FILE", "split": "NAME", "train_split": "NAME", "tensorboard": "DIR",
}  # fmt: skip
_DEVICES = ("auto", "cpu", "cuda", "cuda:0", "cuda:1", "mps")
_MANY = ("groups", "rate")  # of `list[Recipe]`
debug = False  # set by `tenreo --debug`: errors keep their traceback


class WrongUsageError(TenreoError):
    """What was typed is wrong: exit code 2."""


@contextmanager
def usage() -> Iterator[None]:
    """Errors inside the context are about what was typed: exit code 2 instead of 1."""
    try:
        yield
    except TenreoError as error:
        raise WrongUsageError(str(error)) from error


def add_command(app: typer.Typer, body: Callable[..., None], yaml: bool = False) -> None:
    """Add a command to the application.

    Args:
        app: of the command line.
        body: a function of option dataclasses; its docstring is the help text.
        yaml: whether `--config` gives defaults for all options.
    """
    hints = {n: h for n, h in get_type_hints(body).items() if n != "return"}

    def run(context: typer.Context, **values: Any) -> None:
        with exit_codes(context):
            with usage():
                typed = _without_replaced_rates(context, values)
                if yaml:  # has a key that is no option
                    typed["layers"] = (context.default_map or {}).get("layers")
                arguments = {name: _build(hint, typed) for name, hint in hints.items()}
            body(**arguments)

    parameters = [inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)]
    for hint in hints.values():
        parameters += _parameters(hint)
    if yaml:
        parameters.append(_config_parameter(list(hints.values())))
    # What must be given comes first, as Python wants it.
    parameters.sort(key=lambda p: p.default is not inspect.Parameter.empty)
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__name__, run.__doc__ = body.__name__, body.__doc__
    app.command(cls=Command)(run)


def _parts(hint: Any) -> tuple[type, ...]:
    """The dataclasses whose options a parameter takes."""
    many = get_origin(hint) is list
    cls = get_args(hint)[0] if many else hint
    return (RateOptions, Recipe) if cls is Recipe else (cls,)


def _parameters(hint: Any) -> Iterator[inspect.Parameter]:
    for cls in _parts(hint):
        known = options_of(cls)
        for field in fields(cls):
            if field.name in known:
                many = get_origin(hint) is list and field.name in _MANY
                yield _parameter(cls, field, many)


def _parameter(cls: type, field: Field[Any], many: bool) -> inspect.Parameter:
    name, option = field.name, options_of(cls)[field.name]
    kind = types_of(cls)[name]
    text = (
        f"{option.help.removesuffix('.')} ({option.range})."
        if option.range and abs(option.least or 0) < 2**31
        else option.help
    )
    default = None if field.default_factory is not MISSING else field.default
    if default is MISSING and cls is not Recipe:
        default = inspect.Parameter.empty
    elif default is MISSING or default == ():
        default = None
    if many:
        kind = list[int] if name == "groups" else list[float]
    elif get_origin(kind) in (tuple, dict):
        kind = list[str] if default is inspect.Parameter.empty else list[str] | None
    if name in ("file", "files"):
        declared: Any = typer.Argument(help=text, metavar="FILE" if name == "file" else "FILE...")
    else:
        flag = name.replace("_", "-")
        names = [f"--{flag}/--no-{flag}" if kind is bool else f"--{flag}", *([SHORT[name]] if name in SHORT else [])]
        declared = typer.Option(
            *names, help=text, metavar=_metavar(name, kind, many),
            rich_help_panel=PANELS.get(cls.__name__, _OTHER_PANEL),
            autocompletion=_completion(name), show_default=default is not None and not isinstance(default, bool),
        )  # fmt: skip
    annotation = Annotated.__class_getitem__((kind, declared))  # type: ignore[attr-defined]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _metavar(name: str, kind: Any, many: bool) -> str | None:
    if many:
        return f"{name[0].upper()} ..."
    if kind is int and name == "calibrate":
        return None
    return METAVARS.get(name)


def _completion(name: str) -> Callable[[str], Iterable[str]] | None:
    if name == "arch":
        return lambda incomplete: [n for n in architecture_names() if n.startswith(incomplete)]
    if name == "device":
        return lambda incomplete: [n for n in _DEVICES if n.startswith(incomplete)]
    return None


def _config_parameter(hints: list[Any]) -> inspect.Parameter:
    classes = [cls for hint in hints for cls in _parts(hint)]

    def configure(context: typer.Context, path: Path | None) -> Path | None:
        if path is not None:
            with exit_codes(context), usage():
                context.default_map = read_yaml(path, classes)
        return path

    declared = typer.Option(
        "--config", metavar="YAML", is_eager=True, callback=configure, rich_help_panel=_OTHER_PANEL,
        help="Values of these options, with _ for -; what is given on the command line wins.",
    )  # fmt: skip
    annotation = Annotated[Path | None, declared]
    return inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _build(hint: Any, values: Mapping[str, Any]) -> Any:
    """The dataclass of a parameter, or the list of recipes that several values stand for."""
    if hint is Recipe:
        rate = _make(RateOptions, values).resolve()
        return _make(Recipe, values, rate=rate, layers=values.get("layers") or {})
    if get_origin(hint) is list:
        pairs = product(*(dict.fromkeys(values[name] or [None]) for name in _MANY))
        return [_build(Recipe, {**values, "groups": groups, "rate": rate}) for groups, rate in pairs]
    return _make(hint, values)


def _make(cls: type, values: Mapping[str, Any], **others: Any) -> Any:
    taken = {}
    for name in options_of(cls):
        value = values.get(name)
        kind = types_of(cls)[name]
        if get_origin(kind) is dict:
            value = dict(_weighted(name, each) for each in value or ())
        elif get_origin(kind) is tuple:
            value = tuple(value or ())
        taken[name] = value
    return cls(**taken, **others)


def _weighted(name: str, text: str) -> tuple[str, float]:
    """PATTERN=W to its parts."""
    pattern, _, weight = text.rpartition("=")
    try:
        return pattern, check_number(name, float(weight), whole=False, option=options_of(Recipe)[name])
    except ValueError:
        raise TenreoError(f"{name}: given {shown(text)}, needs a pattern and a number, such as 'fc=2.0'") from None


def _without_replaced_rates(context: typer.Context, values: dict[str, Any]) -> dict[str, Any]:
    """A rate or target on the command line replaces another one of the YAML file."""
    typed = {n for n in RATE_KEYS if _source(context, n) == "COMMANDLINE"}
    if not typed - {"progressive"}:
        return dict(values)
    replaced = [n for n in RATE_KEYS if n not in typed and _source(context, n) == "DEFAULT_MAP"]
    if "rate" in typed:  # of the kind that the file says
        replaced = [n for n in replaced if n != "progressive"]
    return {**values, **{n: False if n == "progressive" else None for n in replaced}}


def _source(context: typer.Context, name: str) -> str:
    source = context.get_parameter_source(name)
    return "" if source is None else source.name


@contextmanager
def exit_codes(context: typer.Context) -> Iterator[None]:
    """Turn errors into one line and an exit code: 2 for what was typed, 1 for what went wrong, 130 for Ctrl-C."""
    try:
        yield
    except (TenreoError, MemoryError, OSError) as error:
        if debug and not isinstance(error, BrokenPipeError):
            raise
        raise typer.Exit(end_with(error, context)) from error
    except KeyboardInterrupt:
        note("stopped")
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        # Threads inside compiled code can not be interrupted, and a normal exit waits for them.
        os._exit(130)


def end_with(error: BaseException, context: typer.Context | None = None) -> int:
    """Say what is wrong in one line.

    Args:
        error: what ends the command.
        context: of the command, for the names of its options.

    Returns:
        The exit code.
    """
    if isinstance(error, BrokenPipeError):
        discard(sys.stdout)  # the reader is gone; what is still buffered has nowhere to go
        return 1
    note(f"{_process()}error: {_explained(error, context)}")
    return 2 if isinstance(error, WrongUsageError) else 1


def _explained(error: BaseException, context: typer.Context | None) -> str:
    if isinstance(error, TenreoError):
        return str(error) if context is None else _with_option(str(error), context)
    if isinstance(error, OSError):  # of the system, where nobody expected it
        return f"{error.filename or 'the system says'}: {error.strerror or error}"
    return f"out of memory {error}; try smaller batches or fewer jobs".replace(" ;", ";")


def _with_option(message: str, context: typer.Context) -> str:
    """The message of the library, with the option that it is about."""
    name = message.split(":", 1)[0]
    named = next((p.opts for p in context.command.params if p.name == name and p.opts[0].startswith("-")), None)
    explained = f"{message} ({'/'.join(sorted(named, key=len))})" if named else message
    return with_example(explained, context) if _too_little(message) else explained


def _too_little(message: str) -> bool:
    return ": not given" in message or ": given None" in message


def with_example(message: str, context: typer.Context) -> str:
    """The message, and what could be typed instead."""
    example = EXAMPLES.get(context.command.name or "")
    return f"{message}; such as: {example}" if example else message


def _process() -> str:
    """Which process of several this is, for a message."""
    rank, size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE", "1")
    return "" if rank is None or size == "1" else f"process {rank} of {size}: "


class Command(TyperCommand):
    """A command that understands renamed options and several values of one, and groups its help by subject."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give options their present names, and repeat the name of an option before each of its values."""
        return super().parse_args(ctx, list(self._repeated(self._renamed(args))))

    def _renamed(self, args: list[str]) -> Iterator[str]:
        known = {name for param in self.params for name in (*param.opts, *param.secondary_opts)}
        previous = ""
        for word in args:
            name, equals, value = word.partition("=")
            if word in NEEDLESS and word not in known:
                note(f"note: {word} is no longer needed: {NEEDLESS[word]}")
                continue
            word = RENAMED_VALUES.get((previous.removeprefix("--"), word), word)
            previous = word
            new = RENAMED.get(name.removeprefix("--").replace("-", "_")) if name.startswith("--") else None
            option = f"--{new.replace('_', '-')}" if new else ""
            if name in known or option not in known:
                yield word
                continue
            note(f"note: {name} is now {option}; the old name goes with the next version")
            yield f"{option}{equals}{value}"

    def _repeated(self, args: Iterable[str]) -> Iterator[str]:
        many = {name for param in self.params if param.multiple and param.name in _MANY for name in param.opts}
        current, previous = "", ""
        for word in args:
            short, glued = word[:2], word[2:]
            if short in many and glued and not word.startswith("--"):
                yield from (short, glued)
                current, previous = short, glued
                continue
            if word.startswith("-"):
                current = word if word in many else ""
            elif current and previous != current:
                yield current
            yield word
            previous = word

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, a section per subject."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                panel = getattr(param, "rich_help_panel", None) or _OTHER_PANEL
                sections.setdefault("Arguments" if param.param_type_name == "argument" else panel, []).append(record)
        order = ["Arguments", *dict.fromkeys(PANELS.values()), _OTHER_PANEL]
        for panel in sorted(sections, key=order.index):
            with formatter.section(panel):
                formatter.write_dl(sections[panel])
