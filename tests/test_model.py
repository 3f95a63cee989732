"""The front door of the networks."""

import subprocess
import sys
from pathlib import Path

import pytest

from model import MODELS, create_model, model_table
from models.convnextv2 import ConvNeXtV2
from models.timm_door import import_timm


def test_convnextv2():
    network = create_model("convnextv2", size="atto", in_chans=5, drop_path_rate=0.1)
    assert isinstance(network, ConvNeXtV2) and network.in_chans == 5
    assert network.stages[3].blocks[1].drop_path.rate == pytest.approx(0.1)
    assert MODELS["convnextv2"].private and not MODELS["timm"].private
    assert MODELS["convnextv2"].options == dict(size="nano", in_chans=1, num_classes=1, drop_path_rate=0.0)


def test_timm():
    try:
        import_timm()
    except ValueError as error:
        pytest.skip(str(error))
    assert sum(p.numel() for p in create_model("timm", timm_name="convnextv2_atto").parameters()) == 3_386_441


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("convnext2", {}, "unknown model 'convnext2'.*nearest: convnextv2"),
        (
            "convnextv2",
            dict(drop_path=0.1),
            "unknown option of model 'convnextv2': 'drop_path'.*nearest: drop_path_rate",
        ),
        ("convnextv2", dict(size="nanno"), "'nanno'.*nearest: nano"),
        ("timm", {}, "'timm' needs the option 'timm_name'"),
    ],
)
def test_mistakes_are_named(name, options, words):
    with pytest.raises(ValueError, match=words):
        create_model(name, **options)


def test_table():
    script = Path(__file__).parent.parent / "model.py"
    printed = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == model_table().strip()
    for count in ("3,386,441", "14,980,881", "27,864,193"):
        assert count in printed
