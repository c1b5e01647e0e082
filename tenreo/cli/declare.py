"""Build a command line from option dataclasses: parameters, YAML defaults and help. No torch.

A command is a function whose parameters are dataclasses of options (`tenreo.options`). The fields of all of them are
its options on the command line. `Recipe` takes the options of `RateOptions` in place of its rate, and `list[Recipe]`
accepts several values of `-g` and `-r`, and `Recipe | None` none at all.
"""

import inspect
import os
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, fields
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from tenreo.cli.exits import exit_codes, usage
from tenreo.cli.yaml_files import read_yaml
from tenreo.errors import TenreoError, shown
from tenreo.options import Option, check_number, options_of, types_of
from tenreo.planning.rates import RateOptions, replaced_rate_options
from tenreo.planning.recipe import Recipe

_OTHER_PANEL = "Files and running"  # heading of options whose dataclass has no `panel`; the last one
_NOT_COMPARED = ("target_kl", "target_agreement")  # targets that `list[Recipe]` does not have: each is a search
_REPEATABLE = ("groups", "rate")  # options of which `list[Recipe]` accepts several values


def add_command(app: typer.Typer, check: Callable[..., None], body: str, yaml: bool = False) -> None:
    """Add a command to the application.

    Args:
        app: application of the command line.
        check: function of option dataclasses that checks them without torch; its docstring is the help text.
        body: name of the function in the module of `tenreo.cli.run` with the command's name that does the work. The
            module is imported after the checks, because it imports torch.
        yaml: whether the command has `--config`, a YAML file with defaults of its options.
    """
    hints = {n: h for n, h in get_type_hints(check).items() if n != "return"}

    def run(context: typer.Context, **values: Any) -> None:
        with exit_codes(context):
            with usage():
                typed = _without_replaced_rates(context, values)
                if yaml:  # `layers` is a key of the file without an option of that name
                    typed["layers"] = (context.default_map or {}).get("layers")
                arguments = {name: _build(hint, typed) for name, hint in hints.items()}
            check(**arguments)
            _let_idle_threads_sleep()
            from tenreo.cli.terminal.progress import busy, doing  # imports rich, which the help does not need

            with busy("starting"):
                module = import_module(f"tenreo.cli.run.{check.__name__}")  # imports torch, which takes seconds
                doing("working")
                getattr(module, body)(*arguments.values())

    parameters = [inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)]
    for hint in hints.values():
        repeatable = _REPEATABLE if get_origin(hint) is list else ()
        parameters += [_parameter(cls, f, o, f.name in repeatable) for cls, f, o in option_fields(hint)]
    if yaml:
        parameters.append(_config_parameter(list(hints.values())))
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__name__, run.__doc__ = check.__name__, check.__doc__
    summary = " ".join((check.__doc__ or "").partition("\n\n")[0].split()).removesuffix(".")
    app.command(cls=Command, short_help=summary)(run)  # otherwise, the list of commands would cut the sentence


def _let_idle_threads_sleep() -> None:
    """Let the threads of torch sleep while they wait, unless the user has chosen otherwise.

    OpenMP reads this when torch is imported. By default, its threads wait in a busy loop; if other processes need the
    cores, one step of training then takes ten times as long as with a single thread.
    """
    if not {"GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def option_classes(hint: Any) -> tuple[type, ...]:
    """The dataclasses whose fields are the options of a parameter: `Recipe`, `Recipe | None`, `list[Recipe]`, ..."""
    cls = get_args(hint)[0] if get_args(hint) else hint
    return (RateOptions, Recipe) if cls is Recipe else (cls,)


def option_fields(hint: Any) -> Iterator[tuple[type, Field[Any], Option]]:
    """Yield class, field and option for all options of a parameter, in the order of the help.

    Positional arguments come first, and options that a class shares with other commands, its base class's, come last.
    """
    unused = _NOT_COMPARED if get_origin(hint) is list else ()
    for cls in option_classes(hint):
        known, bases = options_of(cls), [vars(base).get("__annotations__", {}) for base in cls.__mro__]
        depth = {name: next(i for i, names in enumerate(bases) if name in names) for name in known}
        named = [field for field in fields(cls) if field.name in known and field.name not in unused]
        for field in sorted(named, key=lambda f: (not known[f.name].positional, depth[f.name])):
            yield cls, field, known[field.name]


def _parameter(cls: type, field: Field[Any], option: Option, repeatable: bool) -> inspect.Parameter:
    kind = types_of(cls)[field.name]
    default = None if field.default_factory is not MISSING else field.default
    if default is MISSING and cls is not Recipe:
        default = inspect.Parameter.empty
    elif default is MISSING or default == ():
        default = None
    metavar = option.metavar
    if repeatable:
        kind, metavar = list[int] if field.name == "groups" else list[float], f"{field.name[0].upper()} ..."
    elif get_origin(kind) in (tuple, dict):
        kind = list[str] if default is inspect.Parameter.empty else list[str] | None
    text = f"{help_of(option)} On by default." if default is True else help_of(option)
    if option.positional:
        declared: Any = typer.Argument(help=text, metavar=metavar)
    else:
        flag = field.name.rstrip("_").replace("_", "-")  # `for_` is the option --for
        names = [f"--{flag}/--no-{flag}" if kind is bool else f"--{flag}", *([option.short] if option.short else [])]
        declared = typer.Option(
            *names, help=text, metavar=metavar, rich_help_panel=getattr(cls, "panel", _OTHER_PANEL),
            autocompletion=_completion(option), show_default=default is not None and not isinstance(default, bool),
        )  # fmt: skip
    annotation = Annotated.__class_getitem__((kind, declared))  # type: ignore[attr-defined]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def help_of(option: Option) -> str:
    """The help sentence with the range of a number; the range of a 64-bit seed is left out."""
    if not option.range or abs(option.least or 0) >= 2**31:
        return option.help
    return f"{option.help.removesuffix('.')} ({option.range})."


def _completion(option: Option) -> Callable[[str], Iterable[str]] | None:
    values = option.completion
    return values and (lambda incomplete: [value for value in values() if value.startswith(incomplete)])


def _config_parameter(hints: list[Any]) -> inspect.Parameter:
    classes = [cls for hint in hints for cls in option_classes(hint)]

    def configure(context: typer.Context, path: Path | None) -> Path | None:
        if path is not None:
            with exit_codes(context), usage():
                context.default_map = read_yaml(path, classes)
        return path

    declared = typer.Option(
        "--config", metavar="YAML", is_eager=True, callback=configure, rich_help_panel=_OTHER_PANEL,
        help="YAML file of default values for these options; its keys are their names, with _ instead of -.",
    )  # fmt: skip
    annotation = Annotated[Path | None, declared]
    return inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _build(hint: Any, values: Mapping[str, Any]) -> Any:
    """Make the instance of a parameter's dataclass; for `list[Recipe]`, one recipe per pair of groups and rate.

    `Recipe | None` is None if none of its options is given.
    """
    if type(None) in get_args(hint):
        hint = Recipe
        if all(_is_default(cls, name, values.get(name)) for cls in option_classes(hint) for name in options_of(cls)):
            return None
    if hint is Recipe:
        rate = _make(RateOptions, values).resolve()
        return _make(Recipe, values, rate=rate, layers=values.get("layers") or {})
    if get_origin(hint) is list:
        pairs = product(*(dict.fromkeys(values[name] or [None]) for name in _REPEATABLE))
        return [_build(Recipe, {**values, "groups": groups, "rate": rate}) for groups, rate in pairs]
    return _make(hint, values)


def _is_default(cls: type, name: str, value: Any) -> bool:
    (default,) = (f.default for f in fields(cls) if f.name == name)
    return value in (None, (), []) or value == default


def _make(cls: type, values: Mapping[str, Any], **fixed: Any) -> Any:
    taken = {}
    for name in options_of(cls):
        value = values.get(name)
        kind = types_of(cls)[name]
        if get_origin(kind) is dict:
            value = dict(_pattern_and_number(name, each) for each in value or ())
        elif get_origin(kind) is tuple:
            value = tuple(value or ())
        taken[name] = value
    return cls(**taken, **fixed)


def _pattern_and_number(name: str, text: str) -> tuple[str, float]:
    """Split PATTERN=W."""
    pattern, _, weight = text.rpartition("=")
    try:
        return pattern, check_number(name, float(weight), whole=False, option=options_of(Recipe)[name])
    except ValueError:
        raise TenreoError(f"{name}: given {shown(text)}, needs a pattern and a number, such as 'fc=2.0'") from None


def _without_replaced_rates(context: typer.Context, values: dict[str, Any]) -> dict[str, Any]:
    """Remove the rate or target of the YAML file if the command line sets another one."""
    sources = {name: getattr(context.get_parameter_source(name), "name", "") for name in options_of(RateOptions)}
    typed, configured = (
        {name for name, source in sources.items() if source == wanted} for wanted in ("COMMANDLINE", "DEFAULT_MAP")
    )
    return values | replaced_rate_options(typed, configured)


class Command(TyperCommand):
    """A command whose options -g and -r can take several values, `-g 4 8`, and whose help is grouped by subject."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the name of such an option before each of its values, because click requires this."""
        return super().parse_args(ctx, list(self._repeated(args)))

    def _repeated(self, args: Iterable[str]) -> Iterator[str]:
        names = {name for param in self.params if param.multiple and param.name in _REPEATABLE for name in param.opts}
        current, previous = "", ""
        for word in args:
            short, attached = word[:2], word[2:]
            if short in names and attached and not word.startswith("--"):  # such as -g4
                yield from (short, attached)
                current, previous = short, attached
                continue
            if word.startswith("-"):
                current = word if word in names else ""
            elif current and previous != current:
                yield current
            yield word
            previous = word

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the help text; words such as --target-size are not divided at their hyphens."""
        for paragraph in inspect.cleandoc(self.help or "").split("\n\n"):
            text = textwrap.fill(
                " ".join(paragraph.split()), formatter.width, initial_indent="  ", subsequent_indent="  ",
                break_on_hyphens=False, break_long_words=False,
            )  # fmt: skip
            formatter.write(f"\n{text}\n")

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage line: FILE..., for example, for one or more files."""
        pieces = ["[OPTIONS]"]
        for param in self.get_params(ctx):
            if param.param_type_name == "argument":
                name = f"{param.metavar}{'...' if param.nargs == -1 else ''}"
                pieces.append(name if param.required else f"[{name}]")
        return pieces

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options in sections, one per subject, in the order of the command's parameters."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        params: list[Any] = self.get_params(ctx)
        for param in params:
            panel = getattr(param, "rich_help_panel", None) or _OTHER_PANEL
            if param.param_type_name == "argument":
                sections["Arguments"].append((param.metavar, param.help))
            elif (record := param.get_help_record(ctx)) is not None:
                sections.setdefault(panel, []).append(record)
        sections[_OTHER_PANEL] = sections.pop(_OTHER_PANEL)
        for panel, records in sections.items():
            if records:
                with formatter.section(panel):
                    formatter.write_dl(records)
