"""docs/lensing.md: its script runs as it is written, and its table says who imports what."""

import ast
import re

import pytest
import torch
from tests.conftest import ROOT, files_of_the_project

TEXT = (ROOT / "docs" / "lensing.md").read_text()
ONLY_TESTS = re.search(r"^\| nothing but tests \| (.*) \|$", TEXT, re.MULTILINE)[1]


def test_the_examples_run_and_give_the_shapes_they_say():
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names = {}
    exec(compile("\n".join(blocks), "docs/lensing.md", "exec"), names)
    assert names["image"].shape == (2, 41, 41) and (names["image"] > 0).all()
    assert names["gradient"].shape == (2, 1, 1) and names["gradient"].isfinite().all()
    assert names["mapping"].shape == (2, 82, 82, 2, 2) and names["potential"].shape == (82, 82)
    assert names["critical"].shape == names["caustic"].shape and names["there"].any()
    # neither the bumps nor the slope move the mean convergence inside the Einstein radius by much
    assert names["radius"].tolist() == pytest.approx([1.2, 1.2], rel=0.03)
    assert torch.isfinite(names["times_brighter"]).all()


@pytest.mark.parametrize("module", re.search("(.*): all of them", ONLY_TESTS)[1].split(", "))
def test_a_module_that_is_said_to_be_the_users_is_imported_by_no_product(module):
    for file in files_of_the_project("py"):
        if file.relative_to(ROOT).parts[0] not in ("tests", "physics", "benchmarks"):
            for node in ast.walk(ast.parse(file.read_text())):
                names = [alias.name for alias in getattr(node, "names", []) if isinstance(alias, ast.alias)]
                assert getattr(node, "module", "") != f"physics.{module}", file
                assert getattr(node, "module", "") != "physics" or module not in names, file


@pytest.mark.parametrize("name", re.findall(r"`(\w+)`", ONLY_TESTS))
def test_a_function_that_is_said_to_be_the_users_is_used_by_no_product(name):
    for file in files_of_the_project("py"):
        if file.relative_to(ROOT).parts[0] not in ("tests", "physics", "benchmarks"):
            assert not re.search(rf"\b{name}\b", file.read_text()), file
