"""Starloop installed: what pyproject.toml says agrees with the requirement files, and the commands run from
any folder.
"""

import json
import os
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.conftest import ROOT
from tests.test_imports import MAY_IMPORT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
OF_FILE = {"": PROJECT["dependencies"]} | {f"-{name}": lines for name, lines in EXTRAS.items()}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(name: str) -> dict[str, str]:
    """The packages that a requirement file itself pins, and their versions."""
    lines = (ROOT / f"requirements{name}.txt").read_text().splitlines()
    wanted = [Requirement(line) for line in lines if line[:1] not in ("", "#", "-")]
    return {canonical(each.name): str(each.specifier).removeprefix("==") for each in wanted}


@pytest.mark.parametrize("name", OF_FILE)
def test_ranges_and_pins_name_the_same_packages(name):
    ranges = {canonical(each.name): each.specifier for each in map(Requirement, OF_FILE[name])}
    ranges.pop("starloop", None)  # of [dev], which has the other extras
    pinned = pins(name)
    assert set(ranges) == set(pinned)
    assert {package for package, version in pinned.items() if version not in ranges[package]} == set()


def test_each_requirement_file_is_an_extra():
    files = {path.name.removeprefix("requirements").removesuffix(".txt") for path in ROOT.glob("req*.txt")}
    assert files == set(OF_FILE)
    assert set(SpecifierSet(PROJECT["requires-python"]).filter(["3.10", "3.11", "3.13", "3.14"])) == {
        "3.11",
        "3.13",
    }


def test_every_room_and_script_is_installed():
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {pattern.rstrip("*") for pattern in tool["packages"]["find"]["include"]} - {"run_sheets"}
    assert set(MAY_IMPORT) == found | set(tool["py-modules"])


def test_the_papers_agree():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    meta = json.loads((ROOT / "codemeta.json").read_text())
    assert cited["version"] == meta["version"] == PROJECT["version"]
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()
    assert cited["license"] == PROJECT["license"] == "BSD-3-Clause" and meta["license"].endswith(
        "BSD-3-Clause"
    )
    assert cited["authors"] == PROJECT["authors"] == [dict(name="The Starloop developers")]
    assert "The Starloop developers" in (ROOT / "LICENSE").read_text()


def test_what_an_image_copies_is_there():
    """Containerfile and Apptainer definition take the same files, and install the pinned requirements."""
    container = (ROOT / "run_sheets/Containerfile").read_text()
    apptainer = (ROOT / "run_sheets/apptainer.def").read_text()
    copied = re.search(r"^COPY (.+) \./$", container, re.MULTILINE)[1].split()
    files = re.search(r"%files\n(.+?)\n\n", apptainer, re.DOTALL)[1]
    assert all(list(ROOT.glob(name)) for name in copied)
    ours = {name for name in MAY_IMPORT if (ROOT / name).is_dir()} | {
        "run_sheets",
        "LICENSE",
        "pyproject.toml",
    }
    taken = {line.split()[0] for line in files.splitlines()}
    folders = re.findall(r"^COPY (\w+) \./\w+$", container, re.MULTILINE)
    assert ours <= taken and ours <= {*copied, *folders}
    for text in (container, apptainer):
        assert "-r requirements.txt" in text and not re.search(r"apt-get|conda|curl|wget", text)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that pip has installed Starloop into, without what it needs, which is here already."""
    pytest.importorskip("setuptools", "77")
    folder = tmp_path_factory.mktemp("packaging")
    tree = folder / "tree"  # setuptools writes build/ beside what it builds
    tree.mkdir()
    skipped = (".git", "tests", "benchmarks", "runs", "stores", "quickstart", "build")
    for path in ROOT.iterdir():
        if path.name not in skipped and not path.name.startswith("."):
            (tree / path.name).symlink_to(path)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--disable-pip-version-check", "--target", str(folder / "site"), str(tree)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "site"


@pytest.fixture
def command(installed, tmp_path):
    """`command("starloop-train", ...)` runs it in a folder that has nothing of Starloop."""

    def run(name, *arguments):
        environment = os.environ | dict(PYTHONPATH=str(installed), OMP_NUM_THREADS="1")
        done = subprocess.run(
            [str(installed / "bin" / name), *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run


def test_the_commands_of_an_installed_starloop(command, tmp_path):
    text = command("starloop-train", "--help")
    assert "starloop-train" in text and "--batch_size" in text and "Train" in text
    # a recipe that lies with the package, in a folder that has none
    assert "gamma: 0.97163" in command("starloop-train", "--config", "run_sheets/nano.yaml", "--print_config")
    made = command("starloop-simulate", *"challenge --out D --objects 2 --bands g --workers 1".split())
    assert "8 objects in 1 bands" in made and len(list((tmp_path / "D").rglob("*.fits"))) >= 8
    assert not list(tmp_path.glob("*.py"))


def test_every_script_is_a_command(installed):
    scripts = {
        f"starloop-{path.stem}" for path in ROOT.glob("*.py") if "run_script(main)" in path.read_text()
    }
    assert scripts | {"starloop-models"} == set(PROJECT["scripts"])
    assert {path.name for path in (installed / "bin").iterdir()} >= scripts
