"""The command line, built from frozen dataclasses: one field with a comment is one flag with a help text.

    @dataclass(frozen=True)
    class Config(Options):
        lr: float = option(3e-4, above=0)  # peak learning rate
        bands: list[str] = several("g", "r")  # bands to read

    train, lens = read(argv, TrainConfig, LensConfig)

`--batch-size 8` and `--batch_size=8` are the same; a boolean is given bare or as `--no_x`;
a list takes many values.
Precedence: defaults < `--config file.yaml` < flags, wherever `--config` stands on the line.
"""

import dataclasses
import difflib
import inspect
import math
import re
import sys
import types
import typing
from dataclasses import field
from pathlib import Path
from typing import Any, Callable, NamedTuple

import yaml

from utils.messages import Heard, say, shortened
from utils.mistake import Mistake


HOME = Path(__file__).parent.parent  # where Starloop is, cloned or installed
RECIPES = "run_sheets/"
MOST_CONFIG, MOST_DEPTH = 2**16, 8  # bytes and levels of a --config file
PLAIN_NUMBER = re.compile(
    r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?\.?inf(inity)?|\.?nan",
    re.IGNORECASE,
)


class Range(NamedTuple):
    """Which numbers an option takes; an end that is None is open."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def holds(self, number: float) -> bool:
        """NaN compares with nothing, so it is out of every range that has an end."""
        return (
            (self.least is None or number >= self.least)
            and (self.most is None or number <= self.most)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )

    def __str__(self) -> str:
        if self.least is not None and self.most is not None:
            return f"{shown(self.least)} to {shown(self.most)}"
        words = dict(least="at least", above="above", most="at most", below="below")
        ends = {name: getattr(self, name) for name in words}
        return " and ".join(f"{words[name]} {shown(end)}" for name, end in ends.items() if end is not None)


def shown(value: Any) -> str:
    """A number as a person writes it, all its digits kept: 0.1, 1e-05, 1 for 1.0."""
    if not isinstance(value, float):
        return str(value)
    short = f"{value:g}"
    return short if float(short) == value or math.isnan(value) else repr(float(value))


def option(
    default: Any,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    free: bool = False,
) -> Any:
    """A field with a default and, where ends are given, a range for its number, or for each number of a list.

    The class inherits from Options, which checks the range. free: the option may differ when a run is
    resumed, because it cannot change the result.
    """
    about = {"range": Range(least, most, above, below), "free": free}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=about)
    return field(default=default, metadata=about)


def several(*values, **about) -> Any:
    """A list field; `about` as for `option`."""
    return option(list(values), **about)


def free(default: Any, **ends) -> Any:
    """An option that may differ when a run is resumed, because it cannot change the result."""
    return option(default, free=True, **ends)


class Options:
    """What a configuration inherits from: each option is in its range, however the configuration was made.

    A __post_init__ for what several options have to do with each other calls this one first.
    """

    def __post_init__(self):
        for each in dataclasses.fields(self):
            check_range(each, getattr(self, each.name))


def range_of(option: dataclasses.Field) -> Range:
    return option.metadata.get("range", Range())


def check_range(option: dataclasses.Field, value: Any) -> None:
    """Raises Mistake for a number out of the option's range; None, an option that is not given, is in it."""
    numbers = value if isinstance(value, (list, tuple)) else [value]
    for number in numbers:
        if number is not None and not range_of(option).holds(number):
            raise Mistake(f"--{option.name}: got {shown(number)}, expected {range_of(option)}")


def read_options(argv: list[str], *classes: type, script: str | None = None) -> list[Any]:
    """One instance of each of `classes` from the command line.

    Raises Mistake (one line: the flag, the value, what was expected, the nearest known name); SystemExit
    after `--help` and `--print_config`.
    """
    fields = fields_of(*classes)
    for file in config_files(argv):
        for name, value in read_config_file(file).items():
            if name in fields and takes_many(fields[name]) != isinstance(value, list):
                expected = "a list, such as [g, r]" if takes_many(fields[name]) else "one value"
                raise Mistake(f"--config {file!r}: {name} is {shortened(repr(value))}, expected {expected}")
    parser = parser_for(classes, script)
    try:
        values = vars(parser.parse_args(normalised(argv, fields)))
    except Exception as error:
        # jsonargparse raises argparse.ArgumentError; its text spans lines and knows no cure
        raise Mistake(explained(str(error), argv, fields)) from error
    return [cls(**{name: values[name] for name in fields_of(cls)}) for cls in classes]


def fields_of(*classes: type) -> dict[str, dataclasses.Field]:
    """Every option of `classes` by name; the same name in two classes is an error of ours."""
    fields: dict[str, dataclasses.Field] = {}
    for cls in classes:
        for option in dataclasses.fields(cls):
            assert option.name not in fields, f"two options are named {option.name}"
            assert issubclass(cls, Options) or not str(range_of(option)), f"{cls} would not check its ranges"
            fields[option.name] = (
                dataclasses.replace(option, type=typing.get_type_hints(cls)[option.name])
                if isinstance(option.type, str)
                else option
            )
    return fields


def parser_for(classes: tuple[type, ...], script: str | None):
    """The jsonargparse parser with one flat flag for each field."""
    from jsonargparse import ArgumentParser  # 0.2 s that a DataLoader's worker need not pay

    first_paragraph = (inspect.getdoc(sys.modules["__main__"]) or "").split("\n\n")[0]
    summary = " ".join(first_paragraph.split())
    parser = ArgumentParser(prog=script or Path(sys.argv[0]).name, description=summary, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file of options; flags go over it")
    for cls in classes:
        group = parser.add_argument_group(title_of(cls))
        comments = comments_of(cls)
        for name, option in fields_of(cls).items():
            shape = (
                dict(type=typing.get_args(option.type)[0], nargs="*")
                if takes_many(option)
                else dict(type=option.type)
            )
            ends = str(range_of(option))
            text = comments.get(name, "") + (f" ({ends})" if ends else "")
            group.add_argument(f"--{name}", default=default_of(option), help=text, **shape)
    return parser


def takes_many(option: dataclasses.Field) -> bool:
    return typing.get_origin(option.type) is list


def takes_number(option: dataclasses.Field) -> bool:
    kinds = typing.get_args(option.type) or (option.type,)
    return bool({int, float} & set(kinds))


def title_of(cls: type) -> str:
    return f"{cls.__module__.removeprefix('__main__').split('.')[-1] or Path(sys.argv[0]).stem} options"


def comments_of(cls: type) -> dict[str, str]:
    """The comment after each field, or the lines above it, read from the source,
    so that it is written once.
    """
    comments = {}
    for ancestor in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(ancestor):
            continue
        above: list[str] = []
        for line in inspect.getsource(ancestor).split("\n"):
            if option := re.match(r"    (\w+): [^#]*(?:#\s*(.+))?$", line):
                comments[option[1]] = option[2] or " ".join(above) or comments.get(option[1], "")
            alone = re.match(r"    #\s*(.+)$", line)
            above = [*above, alone[1]] if alone else []
    return comments


def normalised(argv: list[str], fields: dict[str, dataclasses.Field]) -> list[str]:
    """One spelling: underscores, booleans with their value, `--config FILE` in front of the flags that go
    over it.
    """
    files, flags = [], []
    tokens = list(argv)
    name = ""
    while tokens:
        token = tokens.pop(0)
        if not token.startswith("--"):
            if name in fields and takes_number(fields[name]):
                refuse_odd_number(f"--{name}", token)
            flags.append(token)
            continue
        name, equals, value = token[2:].partition("=")
        name = name.replace("-", "_")
        if name == "config":
            if not equals and not tokens:
                raise Mistake("--config: expected a YAML file after it")
            file = recipe_path(value if equals else tokens.pop(0))
            files += ["--config", file] if read_config_file(file) else []
        elif name.startswith("no_") and is_switch(fields.get(name[3:])) and name not in fields and not equals:
            flags.append(f"--{name[3:]}=false")
        elif is_switch(fields.get(name)) and not equals:
            stated = tokens and tokens[0].lower() in ("true", "false")
            value = tokens.pop(0).lower() if stated else "true"
            flags.append(f"--{name}={value}")
        elif name in fields or name in ("help", "print_config"):
            if equals and name in fields and takes_number(fields[name]):
                refuse_odd_number(f"--{name}", value)
            flags.append(f"--{name}{equals}{value}")
        else:
            raise Mistake(f"--{name}: no such option{suggestion(name, fields)}; --help lists them all")
    return files + flags


def is_switch(option: dataclasses.Field | None) -> bool:
    return option is not None and option.type is bool


def suggestion(name: str, known) -> str:
    near = difflib.get_close_matches(name, [*known], n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def explained(text: str, argv: list[str], fields: dict[str, dataclasses.Field]) -> str:
    """jsonargparse's many-line error as one line."""
    if unknown := re.search(r"Option '(\w+)' is not accepted", text):
        return f"--config: no such option {unknown[1]!r}{suggestion(unknown[1], fields)}"
    if missing := re.search(r"File does not exist: '?([^']+)'?", text):
        return f"--config: there is no file {missing[1]!r}"
    wrong = re.search(r'Parser key "(\w+)[^"]*"[^:]*:.*(?:Got value|Given value): (.*)', text, re.DOTALL)
    if wrong and wrong[1] in fields:
        got, expected = shortened(repr(wrong[2].strip())), described(fields[wrong[1]].type)
        return f"--{wrong[1]}: got {got}, expected {expected}"
    if alone := re.search(r"argument --(\w+): expected", text):
        return f"--{alone[1]}: expected a value after it: {described(fields[alone[1]].type)}"
    if stray := re.search(r"unrecognized arguments: (.*)", text):
        return f"{stray[1]!r}: does not belong to any flag; --help lists them all"
    return shortened(text, 400)


def is_union(kind: Any) -> bool:
    """Whether a type is `a | b`, of plain types or of a Literal, which Python makes two kinds of."""
    return isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union


def described(kind: Any) -> str:
    """A type in words."""
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    if typing.get_origin(kind) is list:
        return f"any number of: {described(typing.get_args(kind)[0])}"
    if is_union(kind):
        return " or ".join(described(part) for part in typing.get_args(kind))
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}[
        kind
    ]


def peek(argv: list[str], name: str, default: str) -> str:
    """The value of a text option before the options that depend on it are known (`--task`, `--mode`)."""
    for file in config_files(argv):
        default = str(read_config_file(file).get(name, default))
    for token, after in zip(argv, [*argv[1:], ""]):
        if token == f"--{name}":
            default = after
        elif token.startswith(f"--{name}="):
            default = token.partition("=")[2]
    return default


def options_given(argv: list[str], *classes: type) -> set[str]:
    """The names of the options of `classes` that the command line or its `--config` files state."""
    fields = fields_of(*classes)
    names = set()
    in_files = [f"--{key}=" for file in config_files(argv) for key in read_config_file(file)]
    for token in in_files + argv:
        name = token[2:].partition("=")[0].replace("-", "_") if token.startswith("--") else ""
        names |= {name, name.removeprefix("no_")} & fields.keys()
    return names


def config_files(argv: list[str]) -> list[str]:
    """The files that `--config` names on a command line."""
    return [after for token, after in zip(argv, argv[1:]) if token == "--config"] + [
        token.partition("=")[2] for token in argv if token.startswith("--config=")
    ]


def recipe_path(path: str) -> str:
    """A `--config` file as it is given; a path into run_sheets/ in a folder without one is Starloop's own."""
    own = HOME / path
    return str(own) if path.startswith(RECIPES) and not Path(path).exists() and own.exists() else path


def read_config_file(path: str) -> dict[str, Any]:
    """The options that a YAML file holds, by name.

    Raises Mistake for what is no flat YAML mapping of at most 64 kB, before it is expanded: a few lines of
    aliases can stand for gigabytes.
    """
    try:
        with open(recipe_path(path), "rb") as file:
            text = file.read(MOST_CONFIG + 1)
    except (FileNotFoundError, IsADirectoryError):
        raise Mistake(f"--config: there is no file {path!r}") from None
    if len(text) > MOST_CONFIG:
        raise Mistake(f"--config {path!r}: has more than {MOST_CONFIG:,} bytes, expected a file of options")
    try:
        root = compose_plain(text, path)
        content = yaml.safe_load(text)
    except Mistake:
        raise
    except (yaml.YAMLError, ValueError) as error:
        where = getattr(error, "problem_mark", None)
        line = f"line {where.line + 1}: " if where else ""
        why = getattr(error, "problem", None) or error
        raise Mistake(f"--config {path!r}: is not YAML: {line}{shortened(why)}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise Mistake(
            f"--config {path!r}: holds {shortened(repr(content))}, expected lines such as lr: 0.001"
        )
    names = [key.value for key, _ in root.value]
    if twice := {name for name in names if names.count(name) > 1}:
        raise Mistake(f"--config {path!r}: gives {sorted(twice)[0]!r} twice, expected each option once")
    return {str(name): value for name, value in content.items()}


def compose_plain(text: bytes, path: str) -> yaml.Node | None:
    """The nodes of a YAML text. Raises Mistake for aliases, deep nesting, and numbers that are not written as
    people write them: YAML takes 1:30:00 for 5400, 010 for 8 and 1_0 for 10.
    """
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        where = f"--config {path!r}: line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent):
            raise Mistake(
                f"{where} refers to another part of the file (*{shortened(event.anchor)}); write it out"
            )
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH:
            raise Mistake(f"{where} is {depth} levels deep, expected options and their values")
        if isinstance(event, yaml.ScalarEvent) and event.implicit[0]:
            tag = yaml.SafeLoader("").resolve(yaml.ScalarNode, event.value, (True, False))
            if tag.endswith((":int", ":float")) and not PLAIN_NUMBER.fullmatch(event.value):
                raise Mistake(f"{where}: {shortened(event.value)} is no plain number; put a text in quotes")
            refuse_odd_number(where, event.value)
    return yaml.compose(text, yaml.SafeLoader)


def refuse_odd_number(where: str, text: str) -> None:
    """Raises Mistake for what Python takes for a number though nobody would write it so: 0.1_5, or other
    digits than 0 to 9, or a number that no float64 holds.
    """
    try:
        value = float(text)
    except ValueError:
        return  # whoever expects a number says so
    if not PLAIN_NUMBER.fullmatch(text.strip()) or (math.isinf(value) and "inf" not in text.lower()):
        raise Mistake(f"{where}: got {shortened(text)!r}, expected a plain number such as 10 or 0.001")


def pick(name: str, value: str, table: dict) -> Any:
    """`table[value]`, or a Mistake that names the nearest."""
    if value not in table:
        raise Mistake(
            f"--{name}: got {value!r}{suggestion(value, table)}, expected one of {', '.join(table)}"
        )
    return table[value]


def flat_options(*instances: Any) -> dict[str, Any]:
    """All options of some configurations in one dict of plain values."""
    return {name: value for instance in instances for name, value in dataclasses.asdict(instance).items()}


def recorded(cls: type, options: dict[str, Any]) -> Any:
    """The configuration that a checkpoint's record holds.

    An option that came after the checkpoint has its default, which changes nothing of what was there before
    it (a rule for new options). Raises Mistake for a value that is none of its option.
    """
    known = {name: each for name, each in fields_of(cls).items() if name in options}
    for name, each in known.items():
        if not is_of(options[name], each.type):
            raise Mistake(
                f"the checkpoint's record says --{name} {shortened(repr(options[name]))}, expected "
                f"{described(each.type)}: it was written by another version of this code"
            )
    return cls(**{name: options[name] for name in known})


def is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of the type of an option, without converting it; a whole number is a number."""
    parts = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return value in parts
    if typing.get_origin(kind) is list:
        return isinstance(value, list) and all(is_of(each, parts[0]) for each in value)
    if is_union(kind):
        return any(is_of(value, part) for part in parts)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def differences(
    before: dict[str, Any], now: dict[str, Any], fields: dict[str, dataclasses.Field]
) -> list[str]:
    """What changed between two `flat` configurations, free options left out, in words;
    what came after the first one was at its default.
    """
    defaults = {name: default_of(field) for name, field in fields.items()}
    before, now = defaults | before, defaults | now
    return [
        f"--{name} {before.get(name)!r} -> {now.get(name)!r}"
        for name in {**before, **now}
        if not (name in fields and fields[name].metadata.get("free")) and before.get(name) != now.get(name)
    ]


def default_of(field: dataclasses.Field) -> Any:
    return field.default if field.default is not dataclasses.MISSING else field.default_factory()


def refuse_changes(before: dict[str, Any], now: dict[str, Any], *classes: type) -> None:
    """Raises Mistake where a run that is resumed has other options or data than its record ({"options",
    "data"}) says.
    """
    changes = differences(before["options"], now["options"], fields_of(*classes))
    changes += [
        f"{name} {before['data'].get(name)!r:.200} -> {value!r:.200}"
        for name, value in now["data"].items()
        if before["data"].get(name) != value
    ]
    if changes:
        raise Mistake(
            f"{now['options']['save_dir']} holds a run with other options ({'; '.join(changes)}): give the "
            "same ones to resume it, another --save_dir, or --restart to delete it"
        )


def run_script(main: Callable[[list[str]], None]) -> None:
    """Call a script's `main` with the command line.

    A Mistake, or trouble with a file (OSError), ends it with one line on stderr and exit code 2, a divergence
    (FloatingPointError) with 3, Ctrl-C with 130.
    """
    script = Path(sys.argv[0]).name
    # for --help, where the script is the command of an installed Starloop
    sys.modules["__main__"].__doc__ = sys.modules[main.__module__].__doc__
    sys.stdout = Heard(sys.stdout)
    try:
        main(sys.argv[1:])
    except Mistake as mistake:
        say(str(mistake), script)
        sys.exit(2)
    except OSError as trouble:  # no such folder, no permission, no space: its text names the file
        say(str(trouble), script)
        sys.exit(2)
    except FloatingPointError as divergence:
        say(str(divergence), script)
        sys.exit(3)
    except KeyboardInterrupt:
        say("interrupted", script)
        sys.exit(130)
