"""data/cutouts/store.py: what is packed is what astropy reads, what is bad is named, and no kill, crowd or
full disk spoils a store.
"""

import gzip
import io
import json
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from astropy.io import fits

from data import order
from data.cutouts import blocks, buckets, examples, store
from tests.conftest import ROOT
from utils.mistake import Mistake

# A packing run in a process of its own, with blocks small enough to be interrupted between:
# folder, directory, workers.
PACK = """
import sys
sys.path.insert(0, sys.argv[1])
from data.cutouts import buckets, store
from utils.mistake import Mistake
store.BLOCK_ROWS = 8
try:
    store.pack_cutouts(buckets.inventory_of_images(sys.argv[2]), sys.argv[3], workers=int(sys.argv[4]))
except Mistake as mistake:
    sys.exit(str(mistake))
"""


def quiet(line):
    pass


def template():
    image = np.zeros((1, 41, 41))
    columns = [
        fits.Column("Lens ID", "24A", array=np.array(["D1_L_00000000"])),
        fits.Column("band_g", "1681E", dim="(41,41)", array=image),
    ]
    stream = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]).writeto(stream)
    return stream.getvalue()


def write_cutouts(folder, count, seed=0):
    """`count` files as the challenge's, of 5 bands an object;
    returns their pixels in sorted order of names.
    """
    rng, raw = np.random.default_rng(seed), bytearray(template())
    folder.mkdir(parents=True, exist_ok=True)
    pixels = rng.normal(size=(count, 41, 41)).astype("f4")
    for number in range(count):
        raw[5784 : 5784 + 6724] = pixels[number].astype(">f4").tobytes()
        (folder / f"D1_L_{number // 5:08d}_{'girzy'[number % 5]}.fits").write_bytes(raw)
    return pixels


BAD = {
    "a_truncated_g.fits": (lambda raw: raw[:9000], "truncated"),
    "b_empty_g.fits": (lambda raw: b"", "empty file"),
    "c_nan_g.fits": (
        lambda raw: raw[:5784] + b"\x7f\xc0\0\0" + raw[5788:],
        "1 of 1681 pixels are not finite",
    ),
    "d_size_g.fits": (
        lambda raw: image_file(np.zeros((64, 64), "f4")),
        "wrong geometry: HDU 0 is 64x64, expected 41x41",
    ),
    "e_type_g.fits": (
        lambda raw: raw.replace(b"'1681E   '", b"'6724A   '"),
        "has format '6724A', expected numbers",
    ),
    "f_text_g.fits": (lambda raw: b"<html>404 not found</html>" * 200, "not a FITS file"),
    "g_gone_g.fits": (None, "cannot be opened: No such file"),
}


def image_file(image):
    stream = io.BytesIO()
    fits.PrimaryHDU(image).writeto(stream)
    return stream.getvalue()


def write_bad(folder):
    for name, (spoil, _) in BAD.items():
        if spoil is None:
            (folder / name).symlink_to("nowhere.fits")
        else:
            (folder / name).write_bytes(spoil(template()))


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_packed_is_what_was_written(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(store, "BLOCK_ROWS", 16)
    pixels = write_cutouts(tmp_path / "in", 50)
    inventory = buckets.inventory_of_buckets({"slsim_lenses": tmp_path / "in"})
    order = np.argsort([f"{number // 5:08d}{'girzy'[number % 5]}" for number in range(50)])
    lines = []
    packed = store.pack_cutouts(inventory, tmp_path / "out", workers=workers, say=lines.append)
    assert lines == [f"packing 50 of 50 files into {tmp_path / 'out'}"]
    np.testing.assert_array_equal(packed.pixels, pixels[order])
    assert packed.pixels.dtype == np.float32 and not packed.pixels.flags.writeable
    pd.testing.assert_frame_equal(packed.index.drop(columns="reason"), inventory)
    assert packed.good.all() and packed.summary() == [
        f"50 files in {tmp_path / 'out'}, 0 of them quarantined (quarantine.csv)"
    ]
    assert packed.manifest["files"] == packed.manifest["good"] == 50 and len(packed.manifest["crc32"]) == 4
    packed.verify()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "index.parquet",
        "lock",
        "manifest.json",
        "pixels.npy",
        "quarantine.csv",
    ]


def test_another_geometry(tmp_path):
    (tmp_path / "in").mkdir()
    image = np.arange(12.0).reshape(3, 4)
    (tmp_path / "in/a_g.fits").write_bytes(image_file(image))
    packed = store.pack_cutouts(
        buckets.inventory_of_images(tmp_path / "in"), tmp_path / "out", (3, 4), say=quiet
    )
    np.testing.assert_array_equal(packed.pixels, image[None])


def test_bad_files_are_named_with_a_reason_and_the_others_packed(tmp_path):
    """Issue 2, show 5."""
    pixels = write_cutouts(tmp_path / "in", 5)
    write_bad(tmp_path / "in")
    shutil.copy(tmp_path / "in/D1_L_00000000_g.fits", tmp_path / "in/again_r.fits")
    (tmp_path / "in/more").mkdir()
    shutil.copy(tmp_path / "in/D1_L_00000000_g.fits", tmp_path / "in/more/D1_L_00000000_g.fits")
    inventory = buckets.inventory_of_buckets({"slsim_lenses": tmp_path / "in"})
    packed = store.pack_cutouts(inventory, tmp_path / "out", say=quiet)
    assert len(packed.index) == 5 + len(BAD) + 2 == len(packed.pixels)
    reasons = {
        os.path.basename(path): reason
        for path, reason in packed.index[["path", "reason"]].itertuples(index=False)
        if reason
    }
    assert list(reasons) == list(BAD)
    for name, (_, words) in BAD.items():
        assert words in reasons[name], name
    listed = pd.read_csv(tmp_path / "out/quarantine.csv")
    assert list(listed.columns) == ["path", "reason"] and list(listed["reason"]) == list(reasons.values())
    assert not packed.pixels[~packed.good].any()
    assert packed.manifest["quarantined"] == len(BAD) and packed.manifest["good"] == 7
    np.testing.assert_array_equal(packed.pixels[packed.index["object"] == "D1_L_00000000"][0], pixels[0])
    assert len(buckets.duplicate_files(packed.index)) == 2
    assert (
        packed.summary()[0].endswith("7 of them quarantined (quarantine.csv)")
        and packed.summary()[-1] == "  and 4 more"
    )


def test_a_second_use_is_free_and_a_change_is_noticed(tmp_path, monkeypatch):
    write_cutouts(tmp_path / "in", 10)
    inventory = buckets.inventory_of_images(tmp_path / "in")
    first = store.store_directory(tmp_path / "out", inventory)
    assert first.parent == tmp_path / "out" and store.store_directory(tmp_path / "out", inventory) == first
    store.pack_cutouts(inventory, first, say=quiet)

    monkeypatch.chdir(tmp_path)
    relative = buckets.inventory_of_images("in")
    with monkeypatch.context() as patch:
        patch.setattr(store, "_pack", None)  # whoever packs now fails
        again = store.pack_cutouts(relative, store.store_directory("out", relative), say=quiet)
    assert again.index["path"][0] == "in/D1_L_00000000_g.fits"  # spelled as this caller found it

    changed = {}
    os.utime(tmp_path / "in/D1_L_00000001_g.fits", ns=(1, 1))
    changed["time"] = store.store_directory(tmp_path / "out", inventory)
    write_cutouts(tmp_path / "in", 11)
    changed["files"] = store.store_directory(tmp_path / "out", buckets.inventory_of_images(tmp_path / "in"))
    changed["label"] = store.store_directory(
        tmp_path / "out", buckets.inventory_of_buckets({"hsc_lenses": tmp_path / "in"})
    )
    changed["shape"] = store.store_directory(tmp_path / "out", inventory, (40, 40))
    assert len({first, *changed.values()}) == 5


def test_a_store_in_a_fixed_place_is_packed_anew_when_its_files_change(tmp_path):
    write_cutouts(tmp_path / "in", 5)
    old = store.pack_cutouts(buckets.inventory_of_images(tmp_path / "in"), tmp_path / "out", say=quiet)
    before = np.array(old.pixels)
    write_cutouts(tmp_path / "in", 7, seed=1)
    new = store.pack_cutouts(buckets.inventory_of_images(tmp_path / "in"), tmp_path / "out", say=quiet)
    assert len(new.pixels) == 7
    new.verify()
    np.testing.assert_array_equal(old.pixels, before)  # a run that still maps the old one is not disturbed


def start(tmp_path, workers, out="out"):
    return subprocess.Popen(
        [sys.executable, "-c", PACK, str(ROOT), str(tmp_path / "in"), str(tmp_path / out), str(workers)],
        stderr=subprocess.PIPE,
        text=True,
    )


def blocks_done(tmp_path):
    return len(list((tmp_path / "out").glob("partial_*/block_*.json")))


def wait_for_blocks(tmp_path, process, count):
    until = time.monotonic() + 60
    while blocks_done(tmp_path) < count and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.001)


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def children(process):
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not listed.exists():
        pytest.skip("this system does not list the children of a process")
    return [int(child) for child in listed.read_text().split()]


def test_killed_at_random_moments_it_goes_on_and_ends_on_the_same_bytes(tmp_path):
    write_cutouts(tmp_path / "in", 4000)  # 500 blocks, of which five kills see some thirty each
    write_bad(tmp_path / "in")
    whole = start(tmp_path, 1, "whole")
    assert whole.wait() == 0, whole.stderr.read()
    chance, seen = random.Random(), []
    for kill in range(5):
        process = start(tmp_path, workers=1 + kill % 2)
        wait_for_blocks(tmp_path, process, blocks_done(tmp_path) + chance.randint(1, 9))
        time.sleep(chance.uniform(0, 0.02))
        process.kill()
        process.communicate()
        seen.append(blocks_done(tmp_path))
        assert not (tmp_path / "out/manifest.json").exists()
        with pytest.raises(Mistake, match="holds no complete store"):
            store.open_store(tmp_path / "out")
    assert seen == sorted(seen) and 0 < seen[0]  # nothing that was done is done again
    last = start(tmp_path, workers=2)
    said = last.communicate()[1]
    assert last.returncode == 0 and f"packing {4007 - 8 * seen[-1]} of 4007 files" in said.replace(",", "")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_several_at_once_pack_once(tmp_path):
    write_cutouts(tmp_path / "in", 480)
    processes = [start(tmp_path, 1) for _ in range(4)]
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, said
    assert sum("packing 480 of 480" in lines for lines in said) == 1
    assert all(
        "packing 480" in lines or "another process is packing" in lines or lines == "" for lines in said
    )
    store.open_store(tmp_path / "out").verify()


@pytest.mark.parametrize("how", ["worker killed", "interrupt", "terminate"])
def test_whoever_dies_leaves_no_process_and_a_state_to_go_on_from(tmp_path, how):
    write_cutouts(tmp_path / "in", 240)
    # a quarter of a second to refuse: packing cannot end before the blow falls
    bomb = gzip.compress(bytes(2**26 + 1))
    for number in range(16):
        (tmp_path / "in" / f"zz_{number:02d}.fits.gz").write_bytes(bomb)
    process = start(tmp_path, workers=2)
    wait_for_blocks(tmp_path, process, 3)
    workers = children(process)
    assert len(workers) == 2
    if how == "worker killed":
        os.kill(workers[0], signal.SIGKILL)
    else:
        process.send_signal(signal.SIGINT if how == "interrupt" else signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode not in (0, None)
    if how == "worker killed":
        assert "a packing process was killed by signal 9 among files" in said
        assert "run the same command again, with fewer workers" in said and "Traceback" not in said
    until = time.monotonic() + 30
    while any(alive(worker) for worker in workers):  # those of a terminated parent end when their input does
        assert time.monotonic() < until
        time.sleep(0.01)
    done = blocks_done(tmp_path)
    assert done >= 3
    again = start(tmp_path, workers=1)
    assert f"packing {256 - 8 * done} of 256" in again.communicate()[1] and again.returncode == 0
    store.open_store(tmp_path / "out").verify()


def alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_packing_process_minds_no_signal_of_the_scheduler(tmp_path):
    write_cutouts(tmp_path / "in", 2)
    (tmp_path / "pixels.npy").write_bytes(bytes(2 * 6724))
    job = {
        "record": str(tmp_path / "block.json"),
        "pixels": str(tmp_path / "pixels.npy"),
        "offset": 0,
        "first": 0,
        "shape": [41, 41],
        "count": 2,
        "max_blank": 0.5,
        "source": [str(path) for path in sorted((tmp_path / "in").iterdir())],
    }
    worker = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path.insert(0, {str(ROOT)!r}); from data.workers import serve; "
            "serve('data.cutouts.blocks', 'pack_block')",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    for _ in range(2):
        worker.stdin.write(json.dumps(job).encode() + b"\n")
        worker.stdin.flush()
        assert json.loads(worker.stdout.readline()) == {"errno": None}
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
            worker.send_signal(number)
    worker.stdin.close()
    assert worker.wait(timeout=30) == 0
    worker.stdout.close()


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    write_cutouts(tmp_path / "in", 20)
    inventory = buckets.inventory_of_images(tmp_path / "in")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6 - 1000, 1000))
        with pytest.raises(
            Mistake,
            match="out' has 1,000 bytes free, the store needs 134,480 more: "
            "make room or choose another folder",
        ):
            store.pack_cutouts(inventory, tmp_path / "out", say=quiet)

    def no_space(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        with pytest.raises(
            Mistake, match="out' is full .No space left on device.: the store needs 134,480 bytes"
        ):
            store.pack_cutouts(inventory, tmp_path / "out", say=quiet)
    store.pack_cutouts(inventory, tmp_path / "out", say=quiet).verify()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_that_may_not_grow_is_one_line_too(tmp_path, workers):
    """As quota and full disk, but by the system itself and through the worker processes."""
    write_cutouts(tmp_path / "in", 32)
    process = subprocess.Popen(
        [sys.executable, "-c", PACK, str(ROOT), str(tmp_path / "in"), str(tmp_path / "out"), str(workers)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16)),
    )
    said = process.communicate()[1]
    assert (
        process.returncode == 1
        and "is full (File too large): the store needs 215,168 bytes" in said
        and "Traceback" not in said
    )


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    write_cutouts(tmp_path / "in", 1)
    (tmp_path / "file").touch()
    with pytest.raises(Mistake, match="cannot write the store into .*: .*; choose another folder"):
        store.pack_cutouts(buckets.inventory_of_images(tmp_path / "in"), tmp_path / "file" / "out", say=quiet)


def test_nothing_readable_is_a_mistake_with_the_first_reasons(tmp_path):
    (tmp_path / "in").mkdir()
    write_bad(tmp_path / "in")
    for _ in range(2):
        with pytest.raises(
            Mistake,
            match="none of 7 files can be used: .*a_truncated_g.fits: truncated.*; "
            ".*b_empty_g.fits: empty.*41x41",
        ):
            store.pack_cutouts(buckets.inventory_of_images(tmp_path / "in"), tmp_path / "out", say=quiet)


def test_trouble_of_the_machine_is_not_blamed_on_the_files(tmp_path, monkeypatch):
    write_cutouts(tmp_path / "in", 4)

    def stale(*_):
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(blocks, "read_cutouts", stale)
        with pytest.raises(OSError, match="Stale file handle"):
            store.pack_cutouts(buckets.inventory_of_images(tmp_path / "in"), tmp_path / "out", say=quiet)
    assert store.pack_cutouts(
        buckets.inventory_of_images(tmp_path / "in"), tmp_path / "out", say=quiet
    ).good.all()


def test_damage_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "BLOCK_ROWS", 4)
    write_cutouts(tmp_path / "in", 10)
    store.pack_cutouts(buckets.inventory_of_images(tmp_path / "in"), tmp_path / "out", say=quiet)
    good = content(tmp_path / "out")

    def spoiled(name, spoil):
        (tmp_path / "out" / name).write_bytes(spoil(good[name]))
        packed = store.open_store(tmp_path / "out")
        packed.verify()

    flip = 128 + 6724 * 5 + 17
    for name, spoil, words in [
        (
            "pixels.npy",
            lambda raw: raw[:flip] + bytes([raw[flip] ^ 1]) + raw[flip + 1 :],
            "rows 4 to 7 of pixels.npy differ",
        ),
        ("pixels.npy", lambda raw: raw[:-100], "is damaged or foreign"),
        ("index.parquet", lambda raw: raw[:-9] + b"x" + raw[-8:], "index.parquet differs from its checksum"),
        ("manifest.json", lambda raw: raw[:50], "manifest.json"),
        (
            "manifest.json",
            lambda raw: raw.replace(b'"version": 2', b'"version": 9'),
            "of version 9, and this code",
        ),
    ]:
        with pytest.raises(Mistake, match=words):
            spoiled(name, spoil)
        (tmp_path / "out" / name).write_bytes(good[name])
    store.open_store(tmp_path / "out").verify()


def test_a_store_travels_to_another_process_without_its_pixels(tmp_path):
    write_cutouts(tmp_path / "in", 40)
    packed = store.pack_cutouts(buckets.inventory_of_images(tmp_path / "in"), tmp_path / "out", say=quiet)
    assert packed.pixels is packed.pixels
    sent = pickle.dumps(packed)
    assert len(sent) < 40000
    np.testing.assert_array_equal(pickle.loads(sent).pixels, packed.pixels)


def test_real_files_are_packed_beside_their_bad_ones(tmp_path, shared_data):
    inventory = buckets.inventory_of_images(shared_data("lens/hsc_stars"))
    packed = store.pack_cutouts(inventory, tmp_path / "out", (25, 25), say=quiet)
    assert packed.good.sum() == 7 and set(packed.index.loc[~packed.good, "reason"]) == {
        "wrong geometry: HDU 1 is 24x25, expected 25x25",
        "wrong geometry: HDU 1 is 25x24, expected 25x25",
    }
    for row in np.flatnonzero(packed.good):
        np.testing.assert_array_equal(packed.pixels[row], fits.getdata(packed.index["path"][row], 1))


def test_a_flipped_bit_is_met_when_its_block_is_first_read(tmp_path, monkeypatch):
    """Any bit of any pixel; CRC-32 catches every single one by construction, this checks that it is asked."""
    write_cutouts(tmp_path / "in", 40)
    monkeypatch.setattr(store, "BLOCK_ROWS", 8)
    packed = store.pack_cutouts(buckets.inventory_of_images(tmp_path / "in"), tmp_path / "out", say=quiet)
    directory, expected = packed.directory, np.array(packed.pixels)
    whole, generator, rows = (directory / "pixels.npy").read_bytes(), np.random.default_rng(1), np.arange(40)
    for _ in range(60):
        byte, bit = (
            int(generator.integers(len(whole) - expected.nbytes, len(whole))),
            int(generator.integers(8)),
        )
        (directory / "pixels.npy").write_bytes(
            whole[:byte] + bytes([whole[byte] ^ 1 << bit]) + whole[byte + 1 :]
        )
        row = (byte - len(whole) + expected.nbytes) // (41 * 41 * 4)
        damaged = store.open_store(directory)
        with pytest.raises(
            Mistake,
            match=f"rows {row // 8 * 8} to {row // 8 * 8 + 7} of pixels.npy differ from their checksum",
        ):
            damaged.read(rows)
        np.testing.assert_array_equal(
            damaged.read(rows[rows // 8 != row // 8]), expected[rows // 8 != row // 8]
        )
    (directory / "pixels.npy").write_bytes(whole)
    np.testing.assert_array_equal(
        store.open_store(directory).read(np.array([[3, -1], [-1, 39]]))[[0, 1], [0, 1]], expected[[3, 39]]
    )


def test_damage_that_a_reading_process_meets_is_one_line(tmp_path):
    """torch retells an exception of a worker with its whole traceback."""
    write_cutouts(tmp_path / "in", 10)
    directory = store.pack_cutouts(
        buckets.inventory_of_images(tmp_path / "in"), tmp_path / "out", say=quiet
    ).directory
    with open(directory / "pixels.npy", "r+b") as file:
        file.seek(-5, os.SEEK_END)
        file.write(b"?")
    data = examples.make_examples(store.open_store(directory), np.arange(10), ["g"])
    with pytest.raises(
        Mistake, match=r"^the store .* differ from their checksum; remove the folder .*$"
    ) as caught:
        list(order.read_shares(data, [np.arange(len(data))], 1, torch.device("cpu")))
    assert "\n" not in str(caught.value)
