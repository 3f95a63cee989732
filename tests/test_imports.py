"""Who may import whom. An arrow that is not listed here is a design mistake, not a style one."""

import ast
import re
from pathlib import Path

import pytest
from tests.conftest import ROOT, files_of_the_project

ROOMS = {
    "contract": set(),
    "physics": {"physics"},
    "models": {"models", "physics", "contract"},
    "losses": {"losses", "physics", "contract"},
    "samplers": {"samplers", "contract"},
    "model": {"models", "physics"},
    "utils": {"utils"},
    "data": {"data", "utils", "contract", "physics"},
    "evaluation": {"evaluation", "data", "utils"},
    "simulations": {"simulations", "physics", "data", "utils"},
    "tasks": {
        "tasks",
        "model",
        "models",
        "losses",
        "physics",
        "samplers",
        "data",
        "evaluation",
        "utils",
        "contract",
    },
    "modes": {"modes", "data", "utils", "contract"},
}
SCRIPTS = {
    "train": {"tasks", "modes", "model", "data", "utils", "contract"},
    "trained": {"tasks", "utils", "contract"},
    "predict": {"trained", "tasks", "data", "utils", "contract"},
    "survey": {"trained", "tasks", "data", "utils", "contract"},
    "evaluate": {"evaluation", "data", "utils"},
    "ensemble": {"evaluation", "data", "utils"},
    "simulate": {"simulations", "physics", "data", "utils"},
    "convert": {"data", "utils"},
}
MAY_IMPORT = ROOMS | SCRIPTS
FRAMEWORKS = {"lightning", "pytorch_lightning", "accelerate", "ignite"}
HALL = 20  # files that one folder holds at most: the third of one prefix makes a folder


def home_of(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


FILES = [file for file in files_of_the_project("py") if home_of(file) in MAY_IMPORT]
NAMES = [str(file.relative_to(ROOT)) for file in FILES]


def modules_imported(file: Path) -> set[tuple[str, int]]:
    """(module, line) of each import, wherever in the file it stands."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {(alias.name, node.lineno) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "", node.lineno))
            found |= {(f"{node.module}.{alias.name}", node.lineno) for alias in node.names}
    return found


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_imports_point_inwards(file):
    home = home_of(file)
    imported = {(name.split(".")[0], line) for name, line in modules_imported(file)}
    wrong = [(name, line) for name, line in imported if name in MAY_IMPORT and name not in MAY_IMPORT[home]]
    assert not wrong, f"{home} may not import {wrong}"


def test_no_module_imports_itself_by_a_circle():
    """Packages count as their own files: a/__init__.py may gather what the files below it export."""
    module_of = {}
    for file in FILES:
        parts = file.relative_to(ROOT).with_suffix("").parts
        module_of[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    arrows = {
        name: {other for other, _ in modules_imported(file) if other in module_of and other != name}
        for name, file in module_of.items()
    }
    for name in arrows:  # a package that is imported for one of its files is no arrow to all it gathers
        arrows[name] = {
            other for other in arrows[name] if not any(o.startswith(f"{other}.") for o in arrows[name])
        }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in sorted(arrows[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in arrows:
        visit(name, ())


def test_only_scripts_import_tasks_and_modes():
    for name, allowed in ROOMS.items():
        assert name == "tasks" or "tasks" not in allowed
        assert name == "modes" or "modes" not in allowed


def test_no_framework_is_imported():
    for file in FILES:
        names = {name.split(".")[0] for name, _ in modules_imported(file)}
        assert not names & FRAMEWORKS, file
        assert "torchvision" not in names, file


def test_no_hall_is_too_large():
    """As a reader counts them: files, without the __init__.py of a package."""
    folders: dict[Path, list[str]] = {}
    for file in files_of_the_project("py"):
        if file.name != "__init__.py":
            folders.setdefault(file.parent.relative_to(ROOT), []).append(file.name)
    too_large = {str(folder): len(names) for folder, names in folders.items() if len(names) > HALL}
    assert not too_large


def test_nothing_unsafe_is_in_the_tree():
    bad = re.compile(r"pickle\.load|yaml\.load\(|\beval\(|\bexec\(|extractall|weights_only=False|nan_to_num")
    for file in FILES:
        lines = [line for line in file.read_text().splitlines() if bad.search(line.replace(".eval(", ""))]
        assert not lines, f"{file}: {lines}"
