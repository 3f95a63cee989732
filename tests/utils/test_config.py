"""The command line: spellings, precedence, and one clear line for each mistake."""

import importlib
from dataclasses import dataclass, replace
from typing import Literal

import pytest
import yaml

from tasks import TASKS
from train import ALL_MODES as MODES, TrainConfig
from utils import config
from utils.config import Options, free, option, several
from utils.mistake import Mistake
from utils.optimizers import OptimizerConfig
from utils.schedule import ScheduleConfig


@dataclass(frozen=True)
class Config(Options):
    lr: float = option(3e-4, above=0)  # peak learning rate
    batch_size: int = option(128, least=1)  # examples a step
    augment: bool = True  # turn and flip
    use_mad: bool = False  # robust
    kind: Literal["nano", "atto"] = "nano"  # size
    limit: float | None = option(None, most=9)  # may be absent
    bands: list[str] = several("g", "r")  # in order
    edges: list[float] = several(0.5, 2.0, least=0, below=10)  # of the bands
    share: float = option(0.5, least=0, most=1)  # of all
    workers: int = free(0, least=0)  # does not change the result


@dataclass(frozen=True)
class Other(Config):
    batch_size: int = option(8, least=2)
    width: int = 3  # pixels


def read(*argv):
    return config.read_options(list(argv), Config)[0]


@pytest.mark.parametrize(
    "argv,name,value",
    [
        ([], "lr", 3e-4),
        (["--lr", "1e-3"], "lr", 1e-3),
        (["--batch-size", "4"], "batch_size", 4),
        (["--batch_size=4"], "batch_size", 4),
        (["--use_mad"], "use_mad", True),
        (["--use-mad"], "use_mad", True),
        (["--use_mad", "--lr", "1"], "use_mad", True),
        (["--use_mad", "false"], "use_mad", False),
        (["--no_augment"], "augment", False),
        (["--no-augment"], "augment", False),
        (["--limit", "-1"], "limit", -1.0),
        (["--limit", "null"], "limit", None),
        (["--bands", "g", "r", "i", "--lr", "1"], "bands", ["g", "r", "i"]),
        (["--bands"], "bands", []),
        (["--kind", "atto"], "kind", "atto"),
    ],
)
def test_a_flag_reaches_its_field(argv, name, value):
    assert getattr(read(*argv), name) == value


@pytest.mark.parametrize(
    "argv,message",
    [
        (["--bach_size", "4"], r"--bach_size: no such option \(did you mean 'batch_size'\?\)"),
        (["--lr", "fast"], "--lr: got 'fast', expected a number"),
        (["--batch_size", "1.5"], "--batch_size: got '1.5', expected a whole number"),
        (["--kind", "huge"], "--kind: got 'huge', expected one of nano, atto"),
        (["--lr", "-1"], "--lr: got -1, expected above 0"),
        (["--lr", ".nan"], "--lr: got nan, expected above 0"),
        (["--batch_size", "0"], "--batch_size: got 0, expected at least 1"),
        (["--limit", "9.0000001"], "--limit: got 9.0000001, expected at most 9"),
        (["--edges", "1", "10"], "--edges: got 10, expected at least 0 and below 10"),
        (["--share", "1.5"], "--share: got 1.5, expected 0 to 1"),
        (["--workers", "-1"], "--workers: got -1, expected at least 0"),
        (["--lr"], "--lr: expected a value"),
        (["stray"], "'stray'"),
        (["--limit", "x"], "--limit: got 'x', expected a number or null"),
        (["--config", "nowhere.yaml"], "there is no file '.*nowhere.yaml'"),
        (["--config"], "--config: expected a YAML file"),
    ],
)
def test_a_mistake_is_one_line_with_flag_value_and_cure(argv, message):
    with pytest.raises(Mistake, match=message) as caught:
        read(*argv)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("order", [0, 1])
def test_flags_go_over_the_file_wherever_it_stands(tmp_path, order):
    file = tmp_path / "run.yaml"
    file.write_text("lr: 1e-2\nbatch_size: 7\nbands: [y]\nuse_mad: true\n")
    parts = [["--config", str(file)], ["--lr", "5", "--no_use_mad"]]
    ours = read(*parts[order], *parts[1 - order])
    assert (ours.lr, ours.batch_size, ours.bands, ours.use_mad, ours.kind) == (5, 7, ["y"], False, "nano")


def test_a_file_with_an_unknown_key_is_refused(tmp_path):
    (tmp_path / "run.yaml").write_text("learning_rate: 1\n")
    with pytest.raises(Mistake, match="no such option 'learning_rate'"):
        read("--config", str(tmp_path / "run.yaml"))


def test_print_config_is_a_file_that_gives_the_same(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        read("--lr", "0.5", "--print_config")
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    (tmp_path / "run.yaml").write_text(printed)
    assert read("--config", str(tmp_path / "run.yaml")) == read("--lr", "0.5")


def test_help_shows_the_comment_of_each_field(capsys):
    with pytest.raises(SystemExit):
        read("--help")
    printed = " ".join(capsys.readouterr().out.split())
    for comment in (
        "peak learning rate (above 0)",
        "turn and flip",
        "of the bands (at least 0 and below 10)",
        "of all (0 to 1)",
        "does not change the result (at least 0)",
    ):
        assert comment in printed


def test_ranges_hold_however_a_configuration_is_made():
    for make in (
        lambda **options: Config(**options),
        lambda **options: replace(Config(), **options),
        lambda **options: config.recorded(Config, options),
    ):
        with pytest.raises(Mistake, match="--edges: got -0.5, expected at least 0 and below 10"):
            make(edges=[3.0, -0.5])
    assert Config(limit=None).limit is None and Config(edges=[]).edges == []


def test_a_new_default_keeps_its_place_and_its_help():
    assert [*config.fields_of(Other)] == [*config.fields_of(Config), "width"]
    assert config.comments_of(Other) == config.comments_of(Config) | dict(width="pixels")
    with pytest.raises(Mistake, match="--batch_size: got 1, expected at least 2"):
        Other(batch_size=1)


def classes_of_the_house():
    """Every configuration of the scripts, tasks and modes, which these imports bring in."""
    for script in ("convert", "ensemble", "evaluate", "predict", "simulate", "survey", "train"):
        importlib.import_module(script)
    found, left = set(), [Options]
    while left:
        left += (below := left.pop().__subclasses__())
        found.update(cls for cls in below if not cls.__module__.startswith(("tests.", "benchmarks.")))
    return sorted(found, key=lambda cls: (cls.__module__, cls.__name__))


def test_every_range_of_the_house_is_checked_before_anything_else():
    """Also where a class has checks of its own, and in a class that inherits from several."""
    checked = 0
    for cls in classes_of_the_house():
        for name, field in config.fields_of(cls).items():
            least, most, above, below = config.range_of(field)
            wrong = [above, below]
            wrong += [None if least is None else least - 1, None if most is None else most + 1]
            for value in filter(lambda end: end is not None, wrong):
                checked += 1
                with pytest.raises(Mistake, match=f"^--{name}: got {value:g}, expected "):
                    cls(**{name: [value] if config.takes_many(field) else value})
    assert checked > 100


def test_a_range_that_nothing_checks_is_an_error_of_ours():
    @dataclass(frozen=True)
    class Unchecked:
        width: int = option(8, least=1)  # pixels

    with pytest.raises(AssertionError, match="would not check"):
        config.fields_of(Unchecked)


def test_what_was_stated_and_what_changed(tmp_path):
    (tmp_path / "run.yaml").write_text("lr: 1\n")
    assert config.options_given(
        ["--config", str(tmp_path / "run.yaml"), "--no-augment", "--batch_size=3"], Config
    ) == {"lr", "augment", "batch_size"}
    before, now = config.flat_options(read()), config.flat_options(read("--workers", "3", "--lr", "1"))
    assert config.differences(before, now, config.fields_of(Config)) == ["--lr 0.0003 -> 1.0"]


def test_every_option_of_the_house_has_one_name_and_a_comment():
    for task in TASKS.values():
        for mode in MODES.values():
            classes = [TrainConfig, OptimizerConfig, ScheduleConfig, task.Config]
            classes += [mode.config] if mode.config else []
            fields = config.fields_of(*classes)  # asserts that names are unique
            comments = {name for cls in classes for name in config.comments_of(cls)}
            assert fields.keys() <= comments


def test_the_printed_configuration_is_plain_yaml(capsys):
    with pytest.raises(SystemExit):
        read("--print_config")
    assert yaml.safe_load(capsys.readouterr().out)["bands"] == ["g", "r"]


def test_an_option_that_came_later_is_at_its_default():
    """A checkpoint outlives new options: it is read, and its run resumed, as if they had been there, off."""
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Later:
        width: int = 8  # was there
        twist: float = 0.0  # came later

    assert config.recorded(Later, dict(width=16, task="x")) == Later(width=16)
    record = dict(options=dict(width=16, save_dir="r"), data={})
    config.refuse_changes(record, dict(options=dict(width=16, twist=0.0, save_dir="r"), data={}), Later)
    with pytest.raises(Mistake, match=r"--twist 0.0 -> 0.5"):
        config.refuse_changes(record, dict(options=dict(width=16, twist=0.5, save_dir="r"), data={}), Later)


FILES = {
    "max_time: 1:30:00": "line 1: 1:30:00 is no plain number; put a text in quotes",
    "lr: 0.1_5": "line 1: 0.1_5 is no plain number",
    "batch_size: 010": "line 1: 010 is no plain number",
    "batch_size: 0x10": "line 1: 0x10 is no plain number",
    "batch_size: \u0661\u0662": "expected a plain number such as 10 or 0.001",
    "lr: " + "9" * 500: "expected a plain number such as 10 or 0.001",
    "lr: [1": "is not YAML: line 1: expected ',' or ']'",
    "- a\n- b": r"holds \['a', 'b'\], expected lines such as lr: 0.001",
    "just a text": "holds 'just a text', expected lines",
    "# a page\n\nhello world: this: that": "is not YAML: line 3: mapping values are not allowed here",
    "lr: &x 1.0\nshare: *x": r"line 2 refers to another part of the file \(\*x\); write it out",
    "lr: 1\nlr: 2": "gives 'lr' twice",
    "[" * 30_000: "is 9 levels deep",
    "bands: [" + "g," * 300_000 + "]": "has more than 65,536 bytes",
    "bands: no": r"bands is False, expected a list, such as \[g, r\]",
    "bands: grz": "bands is 'grz', expected a list",
    "lr: [1, 2]": r"lr is \[1, 2\], expected one value",
    "lr: " + "x" * 5000: r"--lr: got 'xxx.*\.\.\., expected a number",
    "a: !!python/object/apply:os.system [ls]": "is not YAML: line 1: could not determine a constructor",
    "\0": "is not YAML",
}


@pytest.mark.parametrize("text", FILES)
def test_a_file_that_cannot_be_meant_is_one_line(tmp_path, text):
    path = tmp_path / "options.yaml"
    path.write_text(text)
    with pytest.raises(Mistake, match=FILES[text]) as refusal:
        read("--config", str(path))
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 500
    # what is looked up before all options are known says the same
    with pytest.raises(Mistake):
        config.peek(["--config", str(path)], "kind", "nano")
        config.options_given(["--config", str(path)], Config)
        read("--config", str(path))


def test_an_empty_file_gives_nothing(tmp_path):
    (tmp_path / "options.yaml").write_text("# nothing yet\n")
    assert read("--config", str(tmp_path / "options.yaml"), "--lr", "0.5").lr == 0.5


@pytest.mark.parametrize("text", ["0.1_5", "\u0661\u0662", "1e400", "007"])
def test_a_number_that_nobody_writes_so_is_none(text):
    for argv in (["--lr", text], [f"--lr={text}"]):
        with pytest.raises(Mistake, match=f"--lr: got {text!r}, expected a plain number"):
            read(*argv)
