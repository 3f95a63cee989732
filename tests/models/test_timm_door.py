"""timm through its door: torchvision whole, broken, absent; any network by name."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models import timm_door
from tests.conftest import ROOT

# What a wheel made for CUDA does beside a CPU-only torch: its operators are missing when it refers to them.
BROKEN = """
import torch
@torch.library.register_fake("torchvision::nms")
def nms(dets, scores, threshold):
    return dets
@torch.library.register_fake("torchvision::qnms")
def qnms(dets, scores, threshold):
    return dets
loaded = True
"""


def python(code: str, folder: Path) -> subprocess.CompletedProcess:
    """Run in a fresh interpreter that finds `folder` before all that is installed."""
    head = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]\n"
    return subprocess.run([sys.executable, "-c", head + code], capture_output=True, text=True)


def hide(monkeypatch, hidden: str) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == hidden else find_spec(name))


def test_broken_torchvision_is_mended(tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(BROKEN)
    plain = python("import torchvision", tmp_path)
    assert "operator torchvision::nms does not exist" in plain.stderr
    mended = python(
        "from models.timm_door import import_torchvision as door\n"
        "assert door().loaded and door() is sys.modules['torchvision']",
        tmp_path,
    )
    assert mended.returncode == 0, mended.stderr


def test_torchvision_broken_in_another_way(tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('no such thing')")
    answer = python(
        "from models.timm_door import import_torchvision\n"
        "try: import_torchvision()\nexcept ValueError as error: print(error)",
        tmp_path,
    )
    assert (
        "torchvision cannot be imported (no such thing)" in answer.stdout
        and torch.__version__ in answer.stdout
    )


@pytest.mark.parametrize("absent", ["timm", "torchvision"])
def test_absent_packages_say_what_to_install(monkeypatch, absent):
    hide(monkeypatch, absent)
    if absent == "torchvision":
        monkeypatch.setattr(importlib.util, "find_spec", {"timm": object()}.get)  # timm alone is there
    with pytest.raises(ValueError, match=rf"^{absent} is not installed.*pip install {absent}==[\d.]+$"):
        timm_door.import_timm()


def test_nothing_else_imports_timm():
    code = (
        "import model, models.convnextv2, models.layers.preprocess, models.layers.augment, "
        "models.pretrained\n"
        "assert not {'timm', 'torchvision'} & set(sys.modules)"
    )
    answer = python(code, ROOT)
    assert answer.returncode == 0, answer.stderr


def test_networks_by_name():
    try:
        timm = timm_door.import_timm()
    except ValueError as error:
        pytest.skip(str(error))
    assert timm is timm_door.import_timm()
    for name, options in dict(
        resnet10t={}, test_vit=dict(img_size=48), test_convnext=dict(drop_path_rate=0.1)
    ).items():
        network = timm_door.build_timm(name, in_chans=2, **options).eval()
        assert network(torch.randn(3, 2, 48, 48)).shape == (3, 1)
    with pytest.raises(ValueError, match="no network 'resnet10'.*resnet10t"):
        timm_door.build_timm("resnet10")
    with pytest.raises(ValueError, match="test_convnext does not take one of img_size"):
        timm_door.build_timm("test_convnext", img_size=41)
