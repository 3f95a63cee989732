"""The command line: spellings, precedence, and one clear line for each mistake."""

from dataclasses import dataclass
from typing import Literal

import pytest
import yaml

from train import ALL_MODES as MODES
from tasks import TASKS
from train import TrainConfig
from utils import config
from utils.config import free, several
from utils.mistake import Mistake
from utils.optimizers import OptimizerConfig
from utils.schedule import ScheduleConfig


@dataclass(frozen=True)
class Config:
    lr: float = 3e-4  # peak learning rate
    batch_size: int = 128  # examples a step
    augment: bool = True  # turn and flip
    use_mad: bool = False  # robust
    kind: Literal["nano", "atto"] = "nano"  # size
    limit: float | None = None  # may be absent
    bands: list[str] = several("g", "r")  # in order
    workers: int = free(0)  # does not change the result

    def __post_init__(self):
        if self.lr <= 0:
            raise Mistake(f"--lr: got {self.lr}, expected a number above 0")


def read(*argv):
    return config.read(list(argv), Config)[0]


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
        (["--lr", "-1"], "--lr: got -1.0, expected a number above 0"),
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
    for comment in ("peak learning rate", "turn and flip", "does not change the result"):
        assert comment in printed


def test_what_was_stated_and_what_changed(tmp_path):
    (tmp_path / "run.yaml").write_text("lr: 1\n")
    assert config.given(
        ["--config", str(tmp_path / "run.yaml"), "--no-augment", "--batch_size=3"], Config
    ) == {"lr", "augment", "batch_size"}
    before, now = config.flat(read()), config.flat(read("--workers", "3", "--lr", "1"))
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
