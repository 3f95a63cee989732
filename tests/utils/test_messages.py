"""What is said is one line that moves no terminal, and nothing ends because nobody listens."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from utils.messages import first_of, say, shortened, visible

TALK = """
import sys
from pathlib import Path
from utils import config
def main(argv):
    for line in range(20000):
        print("line", line)
    Path(argv[0]).write_text("done")
config.run_script(main)
"""


def test_controls_are_spelled_out(capsys):
    assert visible("a\x1b[31mb\nc\rd\u202e\x9b") == r"a\x1b[31mb\nc\rd\u202e\x9b"
    assert visible("Å ü 星 J100000.35+101600.1 'x'") == "Å ü 星 J100000.35+101600.1 'x'"
    assert first_of(["a\nb", "c", "d", "e"]) == r"a\nb, c, d, ..."
    assert shortened("x  y\nz" + "x" * 500).startswith("x y zxx") and len(shortened("x" * 500)) == 200
    say("two\nrows\x07", "predict.py")
    assert capsys.readouterr().err == "predict.py: two\\nrows\\x07\n"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_whoever_stops_listening_stops_nothing(tmp_path, stream):
    text = TALK if stream == "stdout" else TALK.replace('print("line", line)', 'say(f"line {line}")')
    text = text.replace(
        "from utils import config", "from utils import config\nfrom utils.messages import say"
    )
    command = [sys.executable, "-c", text, str(tmp_path / "result")]
    process = subprocess.Popen(command, cwd=ROOT, **{stream: subprocess.PIPE})
    pipe = getattr(process, stream)
    pipe.readline()
    pipe.close()
    assert process.wait() == 0 and (tmp_path / "result").read_text() == "done"


def test_a_full_standard_output_is_said_and_stops_nothing(tmp_path):
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [sys.executable, "-c", TALK, str(tmp_path / "result")],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert run.returncode == 0 and (tmp_path / "result").read_text() == "done"
    assert "standard output cannot be written (No space left on device): going on without it\n" == run.stderr
