"""run_sheets/setup.sh: it deletes nothing that it did not make, and does not fall silent."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

# `python3 -m venv DIR` of shell, whose pip writes down what it is asked and takes its time.
PYTHON3 = r"""#!/bin/sh
[ "$1 $2" = "-m venv" ] || exit ${TOO_OLD:-0}
mkdir -p "$3/bin"
cp PIP "$3/bin/python"
"""
PIP = r"""#!/bin/sh
echo "$@" >> CALLS
echo "Collecting $5 $6"
sleep ${PIP_TAKES:-0}
exit ${PIP_CODE:-0}
"""


@pytest.fixture
def set_up(tmp_path):
    """`set_up(venv, NAME=value)` sources the sheet, as a sheet does."""
    tools = tmp_path / "tools"
    tools.mkdir()
    contents = dict(pip=PIP.replace("CALLS", str(tmp_path / "calls")))
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        contents[name] = PYTHON3.replace("PIP", str(tools / "pip"))
    for name, content in contents.items():
        (tools / name).write_text(content)
        (tools / name).chmod(0o755)

    def source(venv, requirements="requirements.txt", **variables):
        line = f'set -euo pipefail; source run_sheets/setup.sh {requirements}; echo "PYTHON=$PYTHON"'
        environment = os.environ | variables | dict(PATH=f"{tools}:{os.environ['PATH']}")
        environment.pop("STARLOOP_PYTHON", None)
        if venv is not None:
            environment["STARLOOP_VENV"] = str(venv)
        if "STARLOOP_PYTHON" in variables:
            environment["STARLOOP_PYTHON"] = variables["STARLOOP_PYTHON"]
        return subprocess.run(
            ["bash", "-c", line], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )

    return source


def test_a_folder_that_it_did_not_make_stays(set_up, tmp_path):
    venv = tmp_path / "mine"
    (venv / "bin").mkdir(parents=True)
    (venv / "precious.txt").write_text("years of work")
    (venv / "bin" / "python").symlink_to(sys.executable)  # as README's manual route makes it
    done = set_up(venv)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "was not made by this sheet" in done.stderr and "STARLOOP_PYTHON=" in done.stderr
    assert (venv / "precious.txt").read_text() == "years of work"
    assert not (tmp_path / "calls").exists()


def test_its_own_is_made_once_extended_and_made_anew(set_up, tmp_path):
    venv = tmp_path / "venv"
    venv.mkdir()  # an empty folder is nobody's
    assert set_up(venv).returncode == 0
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 2 and "torch==" in calls[0] and calls[1].endswith("-r requirements.txt")
    done = set_up(venv, "requirements-dev.txt")
    assert f"PYTHON={venv}/bin/python" in done.stdout
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 3 and calls[2].endswith("-r requirements-dev.txt")
    assert set_up(venv, "requirements-dev.txt").stdout == f"PYTHON={venv}/bin/python\n"
    # of other requirements: this sheet's stamp is there, so it may go
    (venv / "requirements.txt.installed").write_text("torch==1.0\n")
    (venv / "old").touch()
    done = set_up(venv)
    assert "made anew" in done.stdout and not (venv / "old").exists()


def test_an_interrupted_installation_is_its_own(set_up, tmp_path):
    venv = tmp_path / "venv"
    done = set_up(venv, PIP_CODE="1")
    assert done.returncode == 2 and "pip ended with code 1" in done.stderr
    assert "Collecting" in done.stderr and not (venv / "requirements.txt.installed").exists()
    assert set_up(venv).returncode == 0


def test_it_says_what_it_is_at(set_up, tmp_path):
    done = set_up(tmp_path / "venv", PIP_TAKES="2", STARLOOP_SAY_EVERY="1")
    assert done.returncode == 0 and "1 s: Collecting torch==" in done.stdout


def test_an_interpreter_of_ones_own_is_taken_as_it_is(set_up, tmp_path):
    done = set_up(tmp_path / "venv", STARLOOP_PYTHON=sys.executable)
    assert done.stdout == f"PYTHON={sys.executable}\n" and not (tmp_path / "venv").exists()
    done = set_up(None, STARLOOP_PYTHON=str(tmp_path / "none"))
    assert done.returncode == 2 and "expected an interpreter that has torch" in done.stderr


def test_other_versions_of_python_are_refused(set_up, tmp_path):
    done = set_up(tmp_path / "venv", TOO_OLD="1")
    assert done.returncode == 2 and "needs Python 3.11, 3.12 or 3.13" in done.stderr
    assert not (tmp_path / "venv").exists()
