"""Trouble of the machine is not damage: what cannot be read now is named, and nothing is lost."""

import json
import subprocess
import sys


import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def failing_open(tmp_path_factory) -> str:
    """A library to preload, whose `fail_opening` lets files fail to open."""
    built = tmp_path_factory.mktemp("built") / "failing_open.so"
    command = [
        "gcc",
        "-shared",
        "-fPIC",
        "-O1",
        "-o",
        str(built),
        str(ROOT / "tests" / "failing_open.c"),
        "-ldl",
    ]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs gcc to build what lets files fail: {error}")
    return str(built)


def test_what_the_machine_does_not_give_is_not_called_damaged(tmp_path, failing_open):

    run = subprocess.run(
        [sys.executable, "-m", "tests.readers_in_trouble", str(tmp_path)],
        cwd=ROOT,
        env={"LD_PRELOAD": failing_open, "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    answers = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("[")]
    assert len(answers) == 85
    assert [answer for answer in answers if answer[2]] == []
