"""data/cutouts/file_rows.py: objects as pandas would group them, however many rows are written at once."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from data.cutouts import file_rows


def written(folder: Path, index: pd.DataFrame, prob: np.ndarray, zero: bool = False) -> pd.DataFrame:
    """objects_all.csv of the files of an index, of which those with a reason are in no example."""
    good = (index["reason"] == "").to_numpy()
    examples = SimpleNamespace(
        store=SimpleNamespace(index=index),
        left_out=pd.DataFrame(dict(row=[], reason=[])),
        example_of_row=np.where(good, np.cumsum(good) - 1, -1),
    )
    rows = np.arange(len(index))
    frames = file_rows.frames_of_files(rows, examples, prob[good].__getitem__, good.sum(), 0.5, zero)
    place = pd.DataFrame(dict(object=["o3", "o5"], ra=[1.5, 2.0], dec=[-3.0, np.nan]))
    objects = file_rows.Objects(index, rows, np.where(index["label"] < 0, "test", "val"), place)
    file_rows.write_frames_of_files(frames, len(index), folder, "all", objects)
    return pd.read_csv(folder / "objects_all.csv", keep_default_na=False, na_values=["<NA>"])


def inventory(files: int, bands: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Files of objects that are in two domains or have two labels, in any order; a third refused."""
    draw = np.random.default_rng(files)
    number = draw.integers(0, max(2, files // 4), files)
    names = [f"b{band:03d}" for band in range(bands)]
    index = pd.DataFrame(
        dict(
            path=[f"/d/{i}.fits" for i in range(files)],
            object=[f"o{k}" for k in number],
            band=draw.choice(names, files),
            domain=np.where(number % 3 == 0, draw.choice(["hsc", "des"], files), "hsc"),
            reason=np.where(draw.random(files) < 0.33, [f"reason {i}" for i in range(files)], ""),
        )
    )
    return index.assign(label=np.where(number % 5 == 0, -1, number % 2).astype(np.int8)), draw.random(
        files
    ).astype(np.float32)


@pytest.mark.parametrize("at_once", [7, 1000])
@pytest.mark.parametrize("files, bands", [(1, 1), (40, 3), (300, 90)])
def test_objects_are_those_that_pandas_groups(tmp_path, monkeypatch, files, bands, at_once):
    monkeypatch.setattr(file_rows, "ROWS", at_once)
    index, prob = inventory(files, bands)
    table = written(tmp_path, index, prob)
    known = index.assign(prob=np.where(index["reason"] == "", prob, np.nan))
    groups = known.groupby(["domain", "label", "object"], sort=False)
    assert list(zip(table["domain"], table["object"])) == [
        (domain, name) for domain, _, name in groups.groups
    ]
    for row, (_, rows) in zip(table.itertuples(), groups):
        good = rows[rows["reason"] == ""]
        assert row.bands.split() == sorted(good["band"].unique())
        assert row.reason == ("" if len(good) else rows["reason"].iloc[0])
        assert (row.prob == "") == (not len(good))
        if len(good):
            assert float(row.prob) == pytest.approx(good["prob"].mean(), rel=1e-6)
        assert row.split == ("test" if rows["label"].iloc[0] < 0 else "val")
        assert row.label == ("" if rows["label"].iloc[0] < 0 else str(rows["label"].iloc[0]))
        assert (row.ra, row.dec) == {"o3": ("1.5", "-3.0"), "o5": ("2.0", "")}.get(row.object, ("", ""))


def test_what_counts_as_no_lens_keeps_its_reason(tmp_path):
    """--quarantined nonlens: prob 0, of which an object's mean is made as ensemble.py makes it."""
    index = pd.DataFrame(dict(path=list("abc"), object=["x", "x", "y"], band=["g", "r", "g"], domain="d"))
    index = index.assign(label=np.int8(1), reason=["", "empty", "truncated"])
    table = written(tmp_path, index, np.array([0.8, 0, 0], np.float32), zero=True)
    assert table["prob"].tolist() == pytest.approx([0.4, 0])
    assert table["bands"].tolist() == ["g", ""] and table["reason"].tolist() == ["", "truncated"]
