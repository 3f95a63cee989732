"""One process has a folder at a time; a run that --restart replaces goes only when another is there."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import time

import pytest

import train
from tests.conftest import ROOT
from utils import run_folder
from utils.mistake import Mistake
from utils.run_folder import owned, set_aside

HOLD = """
import sys, time
from pathlib import Path
from utils.run_folder import owned
with owned(Path(sys.argv[1]), "save_dir"):
    print("mine", flush=True)
    time.sleep(60)
"""
WRITTEN = ("last.pt*", "best.pt*", "config.yaml")


@pytest.fixture
def holder(tmp_path):
    """Another process that has the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "mine\n"
    yield process
    process.kill()
    process.wait()


def test_a_folder_in_use_is_refused_and_says_by_whom(tmp_path, holder):
    with pytest.raises(Mistake, match=f"--save_dir .* is in use by process {holder.pid} on .*, since .* UTC"):
        with owned(tmp_path, "save_dir"):
            pass
    holder.kill()
    holder.wait()
    with owned(tmp_path, "save_dir"):
        with pytest.raises(Mistake, match=f"is in use by process {os.getpid()}"):
            with owned(tmp_path, "save_dir"):
                pass
    with owned(tmp_path, "save_dir"):
        pass


def test_the_lock_of_another_host_is_waited_for(tmp_path, holder, monkeypatch, capsys):
    """A server holds the locks of a host that crashed for a while."""
    (tmp_path / "lock").write_text('{"host": "elsewhere", "pid": 7, "since": "today"}')
    monkeypatch.setattr(run_folder, "PATIENCE", 0.2)
    with pytest.raises(Mistake, match="in use by process 7 on elsewhere"):
        with owned(tmp_path, "save_dir"):
            pass
    assert "is in use by process 7 on elsewhere, since today: waiting up to 0 s" in capsys.readouterr().err
    monkeypatch.setattr(run_folder, "PATIENCE", 20)
    holder.kill()
    with owned(tmp_path, "save_dir"):
        pass


@pytest.fixture
def no_locks(monkeypatch):
    """A file system that has none; signs of life come quickly."""

    def flock(*_):
        raise OSError(errno.ENOSYS, "no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(run_folder, "BEAT", 0.05)
    monkeypatch.setattr(run_folder, "PATIENCE", 1.0)


def test_without_locks_a_living_owner_is_seen(tmp_path, no_locks, monkeypatch):
    with owned(tmp_path, "save_dir"):
        while not (tmp_path / "owner.json").exists():
            time.sleep(0.01)
        monkeypatch.setattr(run_folder, "is_dead", lambda owner: False)
        with pytest.raises(Mistake, match=f"is in use by process {os.getpid()}"):
            with owned(tmp_path, "save_dir"):
                pass
    assert not (tmp_path / "owner.json").exists()


@pytest.mark.parametrize("host", ["elsewhere", "here"])
def test_without_locks_a_dead_owner_is_followed(tmp_path, no_locks, monkeypatch, host):
    if host == "here":  # it is known at once that a process of this host is gone
        monkeypatch.setattr(run_folder.platform, "node", lambda: "here")
        monkeypatch.setattr(run_folder, "PATIENCE", 1000.0)
    gone = subprocess.Popen(["true"])
    gone.wait()
    (tmp_path / "owner.json").write_text(f'{{"host": "{host}", "pid": {gone.pid}, "since": "x", "beat": 3}}')
    with owned(tmp_path, "save_dir"):
        pass


def test_what_a_killed_process_left_half_written_goes(tmp_path):
    for name in (f".last.pt.{'0' * 32}.tmp", ".notes.tmp", "mine.tmp"):
        (tmp_path / name).write_text("x")
    with owned(tmp_path, "save_dir"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {".notes.tmp", "mine.tmp", "lock"}


def fill(folder, text: str) -> None:
    for name in ("last.pt", "best.pt", "config.yaml", "my_notes.txt"):
        (folder / name).write_text(text)


def test_a_run_that_is_replaced_comes_back_where_no_other_takes_its_place(tmp_path, capsys):
    fill(tmp_path, "old")
    with pytest.raises(ZeroDivisionError):
        with set_aside(tmp_path, WRITTEN, restart=True):
            assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["my_notes.txt"]
            (tmp_path / "config.yaml").write_text("new")
            raise ZeroDivisionError
    assert {path.read_text() for path in tmp_path.iterdir()} == {"old"} and len(list(tmp_path.iterdir())) == 4
    assert "the run that --restart had set aside is back" in capsys.readouterr().err


def test_a_run_that_is_replaced_goes_with_the_first_checkpoint_of_the_other(tmp_path):
    fill(tmp_path, "old")
    with pytest.raises(KeyboardInterrupt):
        with set_aside(tmp_path, WRITTEN, restart=True):
            (tmp_path / "last.pt").write_text("new")
            raise KeyboardInterrupt
    assert {path.name for path in tmp_path.iterdir()} == {"last.pt", "my_notes.txt"}
    assert (tmp_path / "last.pt").read_text() == "new"


@pytest.mark.parametrize("reached", [False, True])
def test_a_restart_that_was_killed_is_settled_by_the_next_run(tmp_path, reached):
    fill(tmp_path, "old")
    (tmp_path / "before_restart").mkdir()
    for name in ("last.pt", "best.pt", "config.yaml"):
        os.replace(tmp_path / name, tmp_path / "before_restart" / name)
    (tmp_path / "config.yaml").write_text("new")
    if reached:
        (tmp_path / "last.pt").write_text("new")
    with set_aside(tmp_path, WRITTEN, restart=False):
        assert (tmp_path / "last.pt").read_text() == ("new" if reached else "old")
        assert (tmp_path / "config.yaml").read_text() == ("new" if reached else "old")
    assert not (tmp_path / "before_restart").exists()


def test_a_restart_without_data_loses_nothing(trained, tmp_path):

    run_dir = shutil.copytree(trained["single"], tmp_path / "run")

    def contents() -> dict[str, bytes]:
        files = {path.name: path.read_bytes() for path in run_dir.iterdir() if path.is_file()}
        return {name: content for name, content in files.items() if name != "lock"}

    before = contents()
    with pytest.raises(Mistake, match="/nonexistent"):
        train.run(train.read_configs(["--restart", "--data", "/nonexistent", "--save_dir", str(run_dir)]))
    assert contents() == before and len(before) > 8
