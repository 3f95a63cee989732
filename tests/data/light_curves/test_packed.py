"""Packing light curves: once, resumable, nothing lost in silence; and batches against a slow loop."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits

from data.light_curves import packed as light_curves
from data.light_curves.curve import Reading
from data.light_curves.files import read_light_curves
from data.light_curves.packed import FIELDS, LightCurves, list_light_curves, open_packed, pack_light_curves
from tests.conftest import ROOT
from tests.data.light_curves.test_files import rates, srctool, table, written
from utils.mistake import Mistake


@pytest.fixture
def folder(tmp_path):
    """Nine eROSITA files of different lengths, one of them without counts."""
    root = tmp_path / "curves"
    (root / "below").mkdir(parents=True)
    for n in range(8):
        written(root / f"em01_123456_020_LightCurve_{n:05d}_c010_rebinned.fits", srctool(3 + 2 * n, seed=n))
    written(root / "below" / "rates.fits", rates(4))
    return root


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(light_curves, "BLOCK_FILES", 2)


def curves_of(packed) -> LightCurves:
    return LightCurves(packed, np.flatnonzero(packed.good))


def same(one, other):
    assert one.curves.equals(other.curves)
    assert all(np.array_equal(one.fields[name], other.fields[name]) for name in FIELDS)


# packing ----------------------------------------------------------------------------------------------------


def test_what_is_packed_is_what_is_read(folder, tmp_path, small_blocks):
    paths = list_light_curves(str(folder))
    packed = pack_light_curves(paths, Reading(), tmp_path / "store")
    assert (
        packed.curves["path"].tolist() == paths
        and packed.good.all()
        and packed.bands == ("0.2-0.6", "0.6-2.3", "2.3-5")
    )
    assert packed.curves["source"].tolist()[1:] == [
        f"123456_{n:05d}" for n in range(8)
    ] and packed.has_counts.tolist() == [False] + 8 * [True]
    for row, path in enumerate(paths):
        curve = read_light_curves(path, Reading())[0]
        points = slice(packed.first[row], packed.first[row] + packed.points[row])
        for name in FIELDS:
            expected = getattr(curve, name) if getattr(curve, name) is not None else np.zeros_like(curve.rate)
            np.testing.assert_allclose(packed.fields[name][points], expected, rtol=1e-6)
    assert packed.fields["time"].dtype == np.float64 and len(packed.fields["time"]) == packed.points.sum()
    assert "9 light curves" in packed.summary()[0]


def test_a_second_use_reads_nothing(folder, tmp_path, monkeypatch):
    paths = list_light_curves(str(folder))
    first = pack_light_curves(paths, Reading(), tmp_path / "store")
    monkeypatch.setattr(light_curves, "find_light_curves", None)
    second = pack_light_curves(paths, Reading(), tmp_path / "store")
    same(first, second)
    assert sorted(os.listdir(second.directory)) == sorted(
        [*(f"{name}.npy" for name in FIELDS), "curves.parquet", "lock", "manifest.json", "quarantine.csv"]
    )


def test_processes_make_the_same(folder, tmp_path, small_blocks):
    paths = list_light_curves(str(folder))
    same(
        pack_light_curves(paths, Reading(), tmp_path / "one", workers=1),
        pack_light_curves(paths, Reading(), tmp_path / "two", workers=2),
    )


def interrupted(paths, store, monkeypatch, blocks: int):
    """Packs until so many blocks are there."""
    read_block, done = light_curves._read_block, []

    def stop(**job):
        if len(done) == blocks:
            raise KeyboardInterrupt
        done.append(job)
        read_block(**job)

    with monkeypatch.context() as patch:
        patch.setattr(light_curves, "_read_block", stop)
        with pytest.raises(KeyboardInterrupt):
            pack_light_curves(paths, Reading(), store)
    return sorted(Path(store).glob("*/partial_*/block_*.npz"))


def counted(monkeypatch) -> list[str]:
    """The paths that are read from now on."""
    find, seen = light_curves.find_light_curves, []
    monkeypatch.setattr(
        light_curves, "find_light_curves", lambda path, reading: seen.append(path) or find(path, reading)
    )
    return seen


def test_a_killed_pack_goes_on_where_it_was(folder, tmp_path, small_blocks, monkeypatch):
    paths = list_light_curves(str(folder))
    whole = pack_light_curves(paths, Reading(), tmp_path / "whole")
    blocks = interrupted(paths, tmp_path / "store", monkeypatch, blocks=2)
    assert len(blocks) == 2
    (blocks[0].parent / ".block_0000003.npz.1.tmp").write_bytes(b"half")  # what a kill leaves of a block
    seen = counted(monkeypatch)
    same(whole, pack_light_curves(paths, Reading(), tmp_path / "store"))
    assert seen == paths[4:] and not list((tmp_path / "store").glob("*/partial_*"))


@pytest.mark.parametrize("damage", ["cut", "bit", "empty"])
def test_a_corrupted_block_is_read_again(folder, tmp_path, small_blocks, monkeypatch, damage):
    paths = list_light_curves(str(folder))
    whole = pack_light_curves(paths, Reading(), tmp_path / "whole")
    blocks = interrupted(paths, tmp_path / "store", monkeypatch, blocks=3)
    content = bytearray(blocks[1].read_bytes())
    if damage == "bit":
        place = content.index(np.load(blocks[1])["rate"].tobytes())
        content[place + 3] ^= 1
    blocks[1].write_bytes({"cut": content[: len(content) // 2], "bit": content, "empty": b""}[damage])
    seen = counted(monkeypatch)
    same(whole, pack_light_curves(paths, Reading(), tmp_path / "store"))
    assert seen == paths[2:4] + paths[6:]


def alive(process: int) -> bool:
    """Whether a process runs, and is not only unburied."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def eventually(condition) -> bool:
    for _ in range(600):
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
def test_workers_end_with_a_killed_parent_and_its_blocks_stay(folder, tmp_path, monkeypatch):
    """kill -9 in the middle of a pack by processes: no orphans, and the next call ends what was begun."""

    def blocks():
        return list((tmp_path / "store").glob("*/partial_2/block_*.npz"))

    (tmp_path / "slowly.py").write_text(f"""
import os, time
from data.light_curves.packed import _read_block
def read_block(block, **job):
    with open({str(tmp_path / "pids")!r}, "a") as file:
        print(os.getpid(), file=file)
    time.sleep(60 if "0000003" in block or "0000004" in block else 0)
    _read_block(block, **job)
""")
    script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from data.light_curves import packed as light_curves
from data.light_curves.curve import Reading
import slowly
light_curves._read_block, light_curves.BLOCK_FILES = slowly.read_block, 2
files = light_curves.list_light_curves({str(folder)!r})
light_curves.pack_light_curves(files, Reading(), {str(tmp_path / "store")!r}, workers=2)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )
    pids = tmp_path / "pids"
    try:
        assert eventually(lambda: pids.exists() and len(pids.read_text().split()) == 5)
        workers = set(map(int, pids.read_text().split()))
        assert eventually(lambda: len(blocks()) == 3) and len(workers) == 2 and process.pid not in workers
        for worker in workers:
            os.kill(worker, signal.SIGTERM)  # a scheduler signals all processes; they leave it to the parent
        time.sleep(0.2)
        assert all(map(alive, workers))
    finally:
        process.kill()
        process.communicate()
    assert eventually(lambda: not any(map(alive, workers)))
    assert len(blocks()) == 3
    whole = pack_light_curves(list_light_curves(str(folder)), Reading(), tmp_path / "whole")
    monkeypatch.setattr(light_curves, "BLOCK_FILES", 2)
    seen = counted(monkeypatch)
    same(whole, pack_light_curves(list_light_curves(str(folder)), Reading(), tmp_path / "store"))
    assert len(seen) == 3


def test_a_changed_file_or_reading_is_read_anew(folder, tmp_path, monkeypatch):
    paths = list_light_curves(str(folder))
    first = pack_light_curves(paths, Reading(), tmp_path / "store")
    seen = counted(monkeypatch)
    os.utime(paths[2], (1, 1))
    second = pack_light_curves(paths, Reading(), tmp_path / "store")
    assert seen == paths and second.directory != first.directory
    same(first, second)
    assert (
        pack_light_curves(paths, Reading(min_fracexp=0.5), tmp_path / "store").points.sum()
        < first.points.sum()
    )
    assert pack_light_curves(paths[1:], Reading(), tmp_path / "store").curves["path"].tolist() == paths[1:]


def test_bad_files_are_quarantined_with_their_reasons(folder, tmp_path, small_blocks):
    """A truncated gzip and a file without a light curve among good ones: named, and nothing else is lost;
    one of fewer bands is no bad file.
    """
    hdu = srctool(5, seed=99)
    written(folder / "good.fits.gz", hdu)
    (folder / "cut.fits.gz").write_bytes((folder / "good.fits.gz").read_bytes()[:-200])
    written(folder / "image.fits", fits.ImageHDU(np.zeros((2, 2))))
    written(folder / "one_band.fits", srctool(5, bands=1))
    (folder / "broken.fits").symlink_to(folder / "nowhere.fits")
    (folder / "table.csv").write_text("Num,Type\n1,ab\n")
    paths = list_light_curves(str(folder))
    packed = pack_light_curves(paths, Reading(), tmp_path / "store")
    assert packed.good.sum() == 11 and packed.curves["path"].tolist() == paths
    reasons = {
        Path(path).name: reason
        for path, reason in packed.curves.loc[~packed.good, ["path", "reason"]].itertuples(index=False)
    }
    assert reasons.keys() == {"cut.fits.gz", "image.fits", "broken.fits", "table.csv"}
    assert "gzip" in reasons["cut.fits.gz"]
    assert (packed.points[~packed.good] == 0).all() and packed.points.sum() == len(packed.fields["time"])
    lines = (packed.directory / "quarantine.csv").read_text().splitlines()
    assert lines[0] == "path,reason" and len(lines) == 5
    assert "4 quarantined" in packed.summary()[0] and "1 more" in packed.summary()[-1]
    assert any("1 lack 0.6-2.3, 1 lack 2.3-5" in line for line in packed.summary())
    curve = read_light_curves(folder / "good.fits.gz", Reading())[0]
    row = paths.index(str(folder / "good.fits.gz"))  # the rows beside the bad ones are their own
    np.testing.assert_array_equal(
        packed.fields["counts"][packed.first[row] : packed.first[row] + 5], curve.counts
    )


def test_a_source_without_a_point_is_quarantined_too(tmp_path):
    (tmp_path / "a.csv").write_text("time,mag,magerr,band,id\n1,20,0.1,g,A\n1,-999,0.1,g,B\n2,20,0.1,g,C\n")
    packed = pack_light_curves([str(tmp_path / "a.csv")], Reading(), tmp_path / "store")
    assert packed.curves["source"].tolist() == ["A", "C", "B"] and packed.good.tolist() == [True, True, False]
    assert packed.curves["reason"][2] == "no point left of this source" and packed.bands == ("g",)


def test_nothing_readable_is_a_mistake(tmp_path):
    (tmp_path / "a.fits").write_bytes(b"no")
    for _ in range(2):
        with pytest.raises(Mistake, match="none of 1 files can be used: .*a.fits: not a FITS file"):
            pack_light_curves([str(tmp_path / "a.fits")], Reading(), tmp_path / "store")
    with pytest.raises(Mistake, match="no files"):
        pack_light_curves([], Reading(), tmp_path / "store")
    (tmp_path / "file").write_text("")
    with pytest.raises(Mistake, match="cannot write"):
        pack_light_curves([str(tmp_path / "a.fits")], Reading(), tmp_path / "file")


def test_a_damaged_pack_says_so(folder, tmp_path):
    packed = pack_light_curves(list_light_curves(str(folder)), Reading(), tmp_path / "store")
    for name in ("curves.parquet", "rate.npy", "observed.npy", "manifest.json"):
        copy = tmp_path / name
        shutil.copytree(packed.directory, copy)
        (copy / name).write_bytes((copy / name).read_bytes()[:-7])
        with pytest.raises(Mistake, match="damaged or foreign"):
            open_packed(copy)
    manifest = json.loads((packed.directory / "manifest.json").read_text())
    (packed.directory / "manifest.json").write_text(json.dumps(manifest | {"version": 99}))
    with pytest.raises(Mistake, match="version"):
        open_packed(packed.directory)
    (packed.directory / "manifest.json").unlink()
    with pytest.raises(Mistake, match="no complete light curves"):
        open_packed(packed.directory)


def test_inventory(folder, tmp_path):
    names = [Path(path).name for path in list_light_curves(str(folder))]
    assert names[0] == "rates.fits" and names[1:] == sorted(names[1:]) and len(names) == 9
    (folder / "notes.txt").write_text("no curve")
    (folder / "below" / "circle").symlink_to(folder)
    for name in ("a.evt.gz", "b.lc", "c.CSV", "d.csv.gz", "e.parquet", "labels.csv"):
        (folder / name).touch()
    assert len(list_light_curves(str(folder))) == 14
    assert list_light_curves(str(folder / "b.lc")) == [str(folder / "b.lc")]
    (tmp_path / "list.txt").write_text(f"# ours\ncurves/b.lc\n\n{folder}/c.CSV\ncurves/b.lc\n")
    assert list_light_curves(str(tmp_path / "list.txt")) == [str(folder / "b.lc"), str(folder / "c.CSV")]
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n")
    for wrong, reason in (
        ("empty", "holds no light curve"),
        ("empty.txt", "lists no file"),
        ("absent", "does not exist"),
    ):
        with pytest.raises(Mistake, match=reason):
            list_light_curves(str(tmp_path / wrong))


# batches ----------------------------------------------------------------------------------------------------


def slow_batch(data, indices) -> dict[str, np.ndarray]:
    """A curve and a point at a time."""
    packed, rows = data.packed, data.rows[indices]
    length = [packed.points[row] for row in rows]
    batch = {}
    for name, kind in FIELDS.items():
        values = packed.fields[name]
        batch[name] = np.zeros(
            (len(rows), max(length), *values.shape[1:]), dtype="f4" if name == "time" else kind
        )
        for b, row in enumerate(rows):
            for t in range(length[b]):
                value = values[packed.first[row] + t]
                batch[name][b, t] = value - values[packed.first[row]] if name == "time" else value
    return batch | dict(
        length=np.array(length),
        has_counts=packed.curves["counts"].to_numpy()[rows],
        index=np.asarray(indices),
        row=rows,
    )


@pytest.mark.parametrize("max_points", [0, 17])
def test_batches_against_a_slow_loop(folder, tmp_path, max_points):
    packed = pack_light_curves(list_light_curves(str(folder)), Reading(), tmp_path / "store")
    data = LightCurves(packed, np.arange(len(packed.curves))[::-1].copy(), max_points)
    for indices in ([0, 8, 3, 3], [8], list(range(9))):
        batch, expected = data.__getitems__(indices), slow_batch(data, indices)
        assert batch.keys() == expected.keys()
        for name, value in expected.items():
            assert batch[name].numpy().dtype == value.dtype and np.array_equal(batch[name], value), name
        padded = torch.arange(batch["time"].shape[1]) >= batch["length"][:, None]
        assert (
            all((batch[name][padded] == 0).all() for name in FIELDS) and not batch["observed"][padded].any()
        )
    assert batch["time"].dtype == torch.float32 and batch["length"].max() == packed.points.max() == 17


def test_long_curves_are_joined_the_same_in_every_process_and_short_ones_left(folder, tmp_path):
    packed = pack_light_curves(list_light_curves(str(folder)), Reading(), tmp_path / "store")
    rows = np.arange(len(packed.curves))
    whole, joined = LightCurves(packed, rows), LightCurves(packed, rows, 6)
    before, after = whole.__getitems__(rows), joined.__getitems__(rows)
    assert after["length"].max() <= 6 and len(joined.kept) == (packed.points > 6).sum() > 3
    short = packed.points <= 6
    for name in FIELDS:
        torch.testing.assert_close(after[name][short], before[name][short][:, : after["time"].shape[1]])
        assert (after[name][torch.arange(after["time"].shape[1]) >= after["length"][:, None]] == 0).all()
    counted = packed.has_counts
    for name in ("counts", "background", "exposure"):
        torch.testing.assert_close(
            after[name][counted].sum(1), before[name][counted].sum(1), rtol=1e-5, atol=1e-4
        )
    again = pickle.loads(pickle.dumps(joined))  # a worker joins them anew, and gets the same
    assert not again.kept and all(torch.equal(again.__getitems__(rows)[name], after[name]) for name in after)


def test_examples_are_named_and_sized(folder, tmp_path):
    packed = pack_light_curves(list_light_curves(str(folder)), Reading(), tmp_path / "store")
    data = LightCurves(packed, np.array([3, 0, 5]))
    assert (
        len(data) == 3
        and data.names([2, 0]) == ["123456_00004", "123456_00002"]
        and data.source.tolist() == ["123456_00002", "rates", "123456_00004"]
    )
    assert (
        data.bands == packed.bands and data[-1]["index"].tolist() == [2] and data[0]["time"].shape == (1, 7)
    )
    assert data.__getitems__([])["rate"].shape == (0, 0, 3)
    again = pickle.loads(pickle.dumps(data))  # as a DataLoader sends it to its workers: without the arrays
    assert (
        all(torch.equal(again[1][name], field) for name, field in data[1].items())
        and len(pickle.dumps(data)) < 20_000
    )
    with pytest.raises(IndexError):
        data[3]


def test_without_counts_the_exposure_is_one(folder, tmp_path):
    packed = pack_light_curves(list_light_curves(str(folder)), Reading(), tmp_path / "store")
    batch = curves_of(packed).__getitems__([0, 1])
    assert batch["has_counts"].tolist() == [False, True]
    assert (
        (batch["counts"][0] == 0).all()
        and (batch["background"][0] == 0).all()
        and torch.equal(batch["exposure"][0], batch["observed"][0].float())
    )


def test_defect_06_gaps_and_widths_reach_the_batch(tmp_path):
    """When a source was not looked at, and for how long it was, is there to be learned from."""
    time = 6.5e8 + np.array([0.0, 14400, 28800, 1.6e7, 1.6e7 + 14400, 3.2e7 + 1])
    written(
        tmp_path / "a.fits",
        table(
            "RATE",
            TIME=("D", time, "s"),
            TIMEDEL=("D", [40.0, 38, 41, 5, 40, 40], "s"),
            COUNTS=("J", [1, 0, 2, 0, 3, 9], "count"),
        ),
    )
    batch = curves_of(pack_light_curves([str(tmp_path / "a.fits")], Reading(), tmp_path / "store"))[0]
    np.testing.assert_allclose(batch["time"][0], time - time[0], atol=2)
    assert batch["width"][0].tolist() == [40, 38, 41, 5, 40, 40]
    np.testing.assert_allclose(batch["time"][0].diff(), np.diff(time), rtol=1e-4)


def test_defect_10_upper_limits_reach_the_batch(tmp_path):
    written(
        tmp_path / "a.fits",
        table(
            "RATE",
            TIME=("D", [0.0, 1, 2], "s"),
            TIMEDEL=("D", [1.0, 1, 1], "s"),
            COUNTS=("J", [0, 4, 0], "count"),
        ),
    )
    batch = curves_of(pack_light_curves([str(tmp_path / "a.fits")], Reading(), tmp_path / "store"))[0]
    assert (batch["error_low"] == batch["rate"])[0, :, 0].tolist() == [True, False, True]


def test_real_stars(shared_data, tmp_path):
    packed = pack_light_curves(
        [str(shared_data("light_curves/rr_lyrae/light_curves.csv.gz"))], Reading(), tmp_path / "store"
    )
    data = curves_of(packed)
    assert len(data) == 483 and packed.points.sum() == 28_339 and len(set(data.source)) == 483
    batch, expected = data.__getitems__([5, 77, 400]), slow_batch(data, [5, 77, 400])
    assert all(np.array_equal(batch[name], expected[name]) for name in FIELDS)
