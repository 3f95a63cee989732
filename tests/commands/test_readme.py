"""Every command block of the README, read from its text and run; only the sizes are made small."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, files_of_the_project

README = (ROOT / "README.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.strip().splitlines()
]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SMALLER = [
    ("--objects 500", "--objects 16"),
    ("--blind 200", "--blind 6"),
    ("run_sheets/quickstart.yaml", "run_sheets/quickstart.yaml --epochs 1"),
    ("--curves 4096", "--curves 60"),
    ("run_sheets/light_curve_recommended.yaml", "run_sheets/light_curve_recommended.yaml --epochs 1"),
    ("--epochs 1 --epochs 2", "--epochs 1"),
    ("--batch_size 128", "--batch_size 16"),
    ("--explain 12", "--explain 2"),
    ("run_sheets/pinn_lens.yaml", "run_sheets/pinn_lens.yaml --epochs 1 --model_size small"),
    # which also fits a network that knows nothing yet
    ("--calibrate temperature", "--calibrate isotonic"),
]


def test_every_step_of_the_pipeline_runs(tmp_path):
    """In one folder and in order, as a reader would. The two sheets are run by their own tests."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    for name in os.listdir(ROOT):  # the reader's clone: the tree, without what git ignores
        if not name.startswith(".") and name not in ("runs", "stores", "quickstart"):
            os.symlink(ROOT / name, tmp_path / name)
    environment = os.environ | dict(
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}", OMP_NUM_THREADS="1"
    )
    steps = [line for line in COMMANDS if line.startswith("python ")]
    assert len(steps) >= 14
    for line in steps:
        for large, small in SMALLER:
            line = line.replace(large, small)
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr[-2000:]}"
    assert len(PYTHON) >= 1
    for block in PYTHON:
        block = block.replace('"run_sheets/quickstart.yaml"', '"run_sheets/quickstart.yaml", "--epochs", "1"')
        done = subprocess.run(
            [sys.executable, "-c", block],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stderr[-2000:]}"
    assert (tmp_path / "runs/demo/submission/submission.csv").exists()
    assert list((tmp_path / "runs/demo/evaluation").glob("*.png"))
    assert (tmp_path / "runs/curves/embedding/embedding_all.parquet").exists()
    assert (tmp_path / "runs/demo/pinn/pred_test/explain_test.png").exists() and (
        tmp_path / "runs/demo/stacked/weights.json"
    ).exists()


def test_every_command_is_accounted_for():
    sheets = [line for line in COMMANDS if not line.startswith("python ")]
    assert sheets == ["bash run_sheets/quickstart.sh", "bash run_sheets/test.sh"]


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_links_lead_somewhere(target):
    assert target.startswith("http") or (ROOT / target).exists()


def test_files_that_are_named_exist():
    for name in re.findall(r"`((?:run_sheets|tasks|answers|models|modes|tests|benchmarks)/[\w./]+)`", README):
        assert (ROOT / name).exists(), name


FOLDERS = "data|utils|tasks|models|losses|modes|physics|evaluation|simulations|tests|docs|run_sheets"
NAMED = re.compile(rf"(?<![\w/.-])((?:{FOLDERS})/[\w/]+\.(?:py|md|sh|yaml))")


def test_every_file_that_a_text_names_is_there():
    """In docstrings, comments, sheets and pages: files move, and what tells of them must follow."""
    gone = []
    for kind in ("py", "md", "sh", "yaml", "txt"):
        for path in files_of_the_project(kind):
            for name in NAMED.findall(path.read_text()):
                gone += [] if (ROOT / name).exists() else [f"{path.relative_to(ROOT)}: {name}"]
    assert not gone
