"""JSON files: strict, whole or not there, and one line where there is none."""

import json

import numpy as np
import pytest

from utils.files import read_json, write_json
from utils.mistake import Mistake


def test_json_is_strict(tmp_path):
    """What is not finite is null, however deep it lies and whoever made it; all else is what json writes."""
    path = tmp_path / "x.json"
    write_json(path, dict(a=float("nan"), b=dict(c=1.5, d="t"), e=None, f=[np.float32("inf"), (1, True)]))
    assert json.loads(path.read_text(), parse_constant=lambda name: 1 / 0) == dict(
        a=None, b=dict(c=1.5, d="t"), e=None, f=[None, [1, True]]
    )
    content = dict(n=3, auc=np.float64(0.1) + 0.2, bands=["g", "r"], nested=dict(yes=False))
    for indent in (1, 2):
        write_json(path, content, indent)
        assert path.read_text() == json.dumps(content, indent=indent) + "\n"
    assert read_json(path, "file", "x.py") == content


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path):
    write_json(tmp_path / "x.json", dict(a=1))
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", dict(a=object()))
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert read_json(tmp_path / "x.json", "file", "x.py") == dict(a=1)


@pytest.mark.parametrize("text", [None, "", "{", "[1]"])
def test_a_file_that_is_none_is_one_line(tmp_path, text):
    if text is not None:
        (tmp_path / "x.json").write_text(text)
    with pytest.raises(Mistake, match="--file '.*x.json': expected a JSON .*, as x.py writes it") as caught:
        read_json(tmp_path / "x.json", "file", "x.py")
    assert "\n" not in str(caught.value)
