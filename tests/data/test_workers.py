"""data/workers.py: whatever a worker meets, the parent says it, and no worker is left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.workers import WorkerLost, work_through
from tests.conftest import ROOT
from utils.mistake import Mistake

TASKS = """
import os, signal, sys, time
from utils.mistake import Mistake

def note(path, number):
    print("noise")                     # must not be taken for an answer
    os.write(1, b"noise\\n")
    with open(path, "a") as file:
        print(number, os.getpid(), file=file)

def full(path, number):
    raise OSError(28, "No space left on device", path)

def wrong(path, number):
    raise Mistake(f"{path}: expected another")

def broken(path, number):
    raise ZeroDivisionError

def killed(path, number):
    os.kill(os.getpid(), signal.SIGKILL)

def slow(path, number):
    note(path, number)
    time.sleep(60)
"""


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """The module of TASKS, which workers import too."""
    (tmp_path / "tasks_of_a_test.py").write_text(TASKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    sys.modules.pop("tasks_of_a_test", None)
    import tasks_of_a_test

    yield tasks_of_a_test
    sys.modules.pop("tasks_of_a_test")


def jobs(path, count):
    return iter([dict(path=str(path), number=number) for number in range(count)])


def about(job):
    return f"number {job['number']}"


@pytest.mark.parametrize("workers", [1, 3])
def test_each_job_is_done_once(tasks, tmp_path, workers):
    done = [job["number"] for job in work_through(tasks.note, jobs(tmp_path / "log", 20), workers, about)]
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted(done) == sorted(int(number) for number, _ in lines) == list(range(20))
    processes = {int(process) for _, process in lines}
    if workers == 1:
        assert processes == {os.getpid()} and done == list(range(20))
    else:
        assert os.getpid() not in processes and not any(map(alive, processes))


@pytest.mark.parametrize("workers", [1, 2])
def test_trouble_and_mistakes_of_a_worker_are_the_parent_s(tasks, tmp_path, workers):
    with pytest.raises(OSError, match="No space left on device") as caught:
        list(work_through(tasks.full, jobs(tmp_path / "a", 4), workers, about))
    assert caught.value.errno == 28 and caught.value.filename == str(tmp_path / "a")
    with pytest.raises(Mistake, match="a: expected another$"):
        list(work_through(tasks.wrong, jobs(tmp_path / "a", 4), workers, about))


def test_a_lost_worker_is_one_line_that_says_what_it_did(tasks, tmp_path, capfd):
    with pytest.raises(WorkerLost, match="^a packing process was killed by signal 9 among number [01]$"):
        list(work_through(tasks.killed, jobs(tmp_path / "a", 4), 2, about))
    with pytest.raises(WorkerLost, match="^a packing process ended with code 1 among number [01]$"):
        list(work_through(tasks.broken, jobs(tmp_path / "a", 4), 2, about))
    said = capfd.readouterr().err
    assert "ZeroDivisionError" in said and "Fatal Python error" not in said


def test_no_worker_outlives_the_parent_even_in_the_middle_of_a_job(tasks, tmp_path):
    script = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]
import tasks_of_a_test as tasks
from data.workers import work_through
jobs = iter([dict(path={str(tmp_path / "log")!r}, number=number) for number in range(4)])
list(work_through(tasks.slow, jobs, 2, str))
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    log = tmp_path / "log"
    try:
        assert eventually(lambda: log.exists() and len(log.read_text().splitlines()) == 2)
        workers = [int(line.split()[1]) for line in log.read_text().splitlines()]
        assert all(map(alive, workers))
    finally:
        parent.kill()
        parent.wait()
    assert eventually(lambda: not any(map(alive, workers)))


def test_the_signals_of_a_scheduler_are_left_to_the_parent():
    script = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from data.workers import leave_signals_to_the_parent
leave_signals_to_the_parent()
print("ready", flush=True)
input()
print("done")
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        process.send_signal(number)
    assert process.communicate("\n", timeout=30)[0] == "done\n" and process.returncode == 0


def test_what_a_worker_imports_is_light():
    """The store's blocks are read without torch, whose import takes longer than many a block."""
    script = f"""
import sys, json
sys.path.insert(0, {str(ROOT)!r})
import data.workers, data.cutouts.blocks
print(json.dumps(sorted(sys.modules.keys() & {{"torch", "matplotlib"}})))
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert json.loads(said) == []


def alive(process: int) -> bool:
    """Whether a process runs, and is not only unburied."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def eventually(condition) -> bool:
    for _ in range(600):
        if condition():
            return True
        time.sleep(0.05)
    return False
