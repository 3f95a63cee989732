"""data/tar_shards/writer.py: store -> shards -> the same store to the last bit;
kills, foreign shards, and tar files that should not be believed.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.cutouts import blocks, store
from data.cutouts.source import open_source
from data.tar_shards import source as shard_source, tar, writer as tar_shards
from tests.conftest import ROOT
from tests.hostile_tars import hostile_manifests, hostile_tars, member, npy, closed, sample
from utils.mistake import Mistake

SHAPE = (6, 5)
HOSTILE = list(hostile_tars(Path("canary")))
WRITE = """
import sys
sys.path.insert(0, sys.argv[1])
from data.cutouts import store
from data.tar_shards import writer as tar_shards
tar_shards.write_shards(store.open_store(sys.argv[2]), sys.argv[3], per_shard=3, workers=int(sys.argv[4]))
"""


def quiet(line):
    pass


class Images:
    """A source made in memory: bands differ, names come twice, images are bad, metadata of all types."""

    def __init__(self, objects: int = 40, scattered: bool = False):
        rng, rows = np.random.default_rng(0), []
        for number in range(objects):
            for band in "grizy"[: 1 + number % 5]:
                rows.append(
                    (
                        f"cube {number}.fits#{band}",
                        f"J{number // 2:04d}",
                        band,
                        "hsc" if number % 4 else "slsim",
                        number % 3 - 1,
                    )
                )
        rows = [rows[i] for i in rng.permutation(len(rows))] if scattered else rows
        self.index = (
            pd.DataFrame(rows, columns=store.COLUMNS)
            .astype(dict.fromkeys(store.COLUMNS[:-1], "str"))
            .astype({"label": "int8"})
        )
        count = objects // 2 + 3  # three have no images
        values = rng.normal(size=count) * 10.0 ** rng.integers(-300, 300, count)
        values[:6] = np.nan, np.inf, -np.inf, -0.0, 5e-324, np.nextafter(1, 2)
        self.metadata = pd.DataFrame(
            {
                "object": [f"J{number:04d}" for number in range(count)],
                "source_catalog": "hsc",
                "redshift": values,
                "seeing": rng.normal(size=count).astype(np.float16),
                "magnitude_g": rng.normal(size=count).astype(np.float32),
                "own_count": rng.integers(-(2**63), 2**63 - 1, count),
                "own_large": np.full(count, 2**64 - 1, np.uint64),
                "own_flag": rng.random(count) < 0.5,
                "own_text": ['\u00e9"\n\x00\U0001f600' if number % 2 else "" for number in range(count)],
            }
        ).astype({"object": "str", "own_text": "str"})
        self.metadata = self.metadata.iloc[rng.permutation(count)].reset_index(drop=True)
        self.shape, self.recipe = SHAPE, {"kind": "in memory"}
        self.pixels = rng.normal(size=(len(rows), *SHAPE)).astype(np.float32)
        self.bad = {3: "1 of 30 pixels are not finite", 17: 'a "reason", with commas'}

    def read(self, rows):
        pixels = self.pixels[rows.start : rows.stop].copy()
        bad = {row: reason for row, reason in self.bad.items() if row in rows}
        pixels[[row - rows.start for row in bad]] = 0
        return pixels, bad


def packed(folder, source, monkeypatch, name="store", block=16):
    with monkeypatch.context() as patch:
        patch.setattr(blocks, "_opened", lambda recipe: source)
        patch.setattr(store, "BLOCK_ROWS", block)
        return store.pack_cutouts(source.index, folder / name, source.shape, 1, "digest", quiet, source)


@pytest.fixture
def there(tmp_path, monkeypatch):
    return packed(tmp_path, Images(), monkeypatch)


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.name != "lock"}


def shards_of(folder, *tars: bytes) -> str:
    folder.mkdir(exist_ok=True)
    for number, raw in enumerate(tars):
        (folder / f"{number}.tar").write_bytes(raw)
    return str(folder)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("scattered", [False, True])
def test_a_store_comes_back_to_the_last_bit(tmp_path, monkeypatch, scattered, workers):
    first = packed(tmp_path, Images(scattered=scattered), monkeypatch)
    manifest = tar_shards.write_shards(first, tmp_path / "shards", 7, workers, quiet)
    assert manifest["samples"] == 40 and [shard["samples"] for shard in manifest["shards"]] == [7] * 5 + [5]
    source = open_source({"kind": "tar_shards", "directory": str(tmp_path / "shards")})
    pd.testing.assert_frame_equal(source.index, first.index[store.COLUMNS], check_exact=True)
    pd.testing.assert_frame_equal(source.metadata, first.metadata, check_exact=True)
    monkeypatch.setattr(store, "BLOCK_ROWS", 16)
    store.pack_cutouts(source.index, tmp_path / "back", source.shape, workers, "digest", quiet, source)
    # also -0.0, infinities and quarantined rows: all files are the same bytes
    assert content(tmp_path / "back") == content(tmp_path / "store")


def test_a_store_without_metadata_comes_back_too(tmp_path, monkeypatch):
    source = Images()
    source.metadata = None
    first = packed(tmp_path, source, monkeypatch)
    tar_shards.write_shards(first, tmp_path / "shards", 100, say=quiet)
    source = shard_source.open_source(directory=str(tmp_path / "shards"))
    assert source.metadata is None
    monkeypatch.setattr(store, "BLOCK_ROWS", 16)
    store.pack_cutouts(source.index, tmp_path / "back", source.shape, 1, "digest", quiet, source)
    assert content(tmp_path / "back") == content(tmp_path / "store")


def test_another_process_reads_the_same_rows_without_the_catalogue(tmp_path, there):
    tar_shards.write_shards(there, tmp_path / "shards", 7, say=quiet)
    source = open_source(open_source({"kind": "tar_shards", "directory": str(tmp_path / "shards")}).recipe)
    pixels, bad = source.read(range(10, 30))
    assert np.array_equal(pixels, there.pixels[10:30]) and bad == {17: 'a "reason", with commas'}
    assert "tables" not in source.__dict__ and len(source.images) < 6


def test_an_ordinary_tar_program_reads_the_shards(tmp_path, there):
    tar_shards.write_shards(there, tmp_path / "shards", 15, say=quiet)
    index, metadata = there.index, there.metadata.set_index("object")
    for path in sorted((tmp_path / "shards").glob("*.tar")):
        with tarfile.open(path) as file:
            infos = file.getmembers()
            assert [info.name for info in infos] == sorted(info.name for info in infos)
            assert {(info.mtime, info.uid, info.gid, info.mode, info.uname) for info in infos} == {
                (0, 0, 0, 0o644, "")
            }
            for info in infos:
                assert tar.header(info.name, info.size) == info.tobuf(tarfile.USTAR_FORMAT)
                if info.name.endswith(".json"):
                    record = json.load(file.extractfile(info), parse_constant=pytest.fail)
                    image = np.load(
                        io.BytesIO(file.extractfile(info.name.replace("json", "npy")).read()),
                        allow_pickle=False,
                    )
                    assert np.array_equal(image, there.pixels[record["rows"]])
                    assert (
                        list(index["band"][record["rows"]]) == record["bands"]
                        and list(index["reason"][record["rows"]]) == record["reasons"]
                    )
                    redshift = metadata["redshift"][record["object"]]
                    assert record["metadata"]["redshift"] == (
                        None
                        if np.isnan(redshift)
                        else str(redshift).replace("inf", "Infinity")
                        if np.isinf(redshift)
                        else redshift
                    )


def test_webdataset_reads_the_shards(tmp_path, there):
    wds = pytest.importorskip(
        "webdataset", reason="webdataset is not installed (requirements-benchmarks.txt)"
    )
    tar_shards.write_shards(there, tmp_path / "shards", 7, say=quiet)
    urls = [str(path) for path in sorted((tmp_path / "shards").glob("*.tar"))]
    samples = list(wds.WebDataset(urls, shardshuffle=False).decode())
    assert len(samples) == 40 and [found["__key__"] for found in samples] == [
        f"{number:09d}" for number in range(40)
    ]
    for found in samples:
        assert (
            np.array_equal(found["npy"], there.pixels[found["json"]["rows"]])
            and found["npy"].dtype == np.float32
        )


@pytest.mark.parametrize(
    "options", [{}, {"mtime": 1.5}, {"format": "PAX_FORMAT", "mtime": 1.5}, {"format": "GNU_FORMAT"}]
)
def test_what_webdataset_writes_is_read(tmp_path, options):
    wds = pytest.importorskip(
        "webdataset", reason="webdataset is not installed (requirements-benchmarks.txt)"
    )
    images = np.random.default_rng(0).normal(size=(20, 3, *SHAPE)).astype(np.float32)
    (tmp_path / "shards").mkdir()
    for shard in range(2):
        with (
            open(tmp_path / "shards" / f"{shard}.tar", "wb") as file,
            wds.TarWriter(file, **options) as writer,
        ):
            for number in range(shard * 10, shard * 10 + 10):
                name = f"{'a long folder name ' * 5}/{number:06d}"
                writer.write(
                    {
                        "__key__": name,
                        "npy": images[number],
                        "json": {"object": f"x{number}", "redshift": number / 7},
                        "cls": number % 2,
                    }
                )
    source = shard_source.open_source(directory=str(tmp_path / "shards"), bands="gri")
    assert np.array_equal(source.read(range(60))[0], images.reshape(60, *SHAPE)) and list(
        source.index["band"][:3]
    ) == ["g", "r", "i"]
    assert list(source.metadata["redshift"]) == [number / 7 for number in range(20)]
    assert list(source.index["label"][::3]) == [number % 2 for number in range(20)]


def test_the_same_store_gives_the_same_bytes_and_a_second_use_is_free(tmp_path, there, monkeypatch):
    said = []
    tar_shards.write_shards(there, tmp_path / "a", 7, 1, said.append)
    tar_shards.write_shards(there, tmp_path / "b", 7, 3, said.append)
    assert content(tmp_path / "a") == content(tmp_path / "b") and len(said) == 2
    monkeypatch.setattr(tar_shards, "_write_shard", None)
    assert (
        tar_shards.write_shards(there, tmp_path / "a", 7, 1, said.append)["samples"] == 40 and len(said) == 2
    )


def test_a_shard_that_is_gone_is_written_again(tmp_path, there):
    tar_shards.write_shards(there, tmp_path / "shards", 7, say=quiet)
    whole = content(tmp_path / "shards")
    (tmp_path / "shards" / "shard-000002.tar").unlink()
    os.truncate(tmp_path / "shards" / "shard-000004.tar", 1000)
    said = []
    tar_shards.write_shards(there, tmp_path / "shards", 7, 1, said.append)
    assert content(tmp_path / "shards") == whole and said[0].startswith("writing 2 of 6 shards")


def test_shards_of_another_store_stay(tmp_path, there):
    tar_shards.write_shards(there, tmp_path / "shards", 7, say=quiet)
    with pytest.raises(Mistake, match="another store"):
        tar_shards.write_shards(there, tmp_path / "shards", 8, say=quiet)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "shard-000099.tar").touch()
    with pytest.raises(Mistake, match="shard-000099.tar, which is not of this store"):
        tar_shards.write_shards(there, tmp_path / "other", 8, say=quiet)


def done(folder) -> int:
    """How many shards are on disk, durably."""
    found = [name for _, _, names in os.walk(folder) for name in names if name.startswith("shard-")]
    return len({Path(name).stem for name in found if name.endswith((".json", ".tar"))})


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_any_moment_it_goes_on_and_ends_on_the_same_bytes(tmp_path, monkeypatch, workers):
    there = packed(tmp_path, Images(450), monkeypatch)
    tar_shards.write_shards(there, tmp_path / "whole", 3, say=quiet)
    for number in range(12):
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                WRITE,
                str(ROOT),
                str(there.directory),
                str(tmp_path / "shards"),
                str(workers),
            ],
            stderr=subprocess.DEVNULL,
        )
        before = done(tmp_path / "shards")
        while process.poll() is None and done(tmp_path / "shards") < before + 20 * (1 + number):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
    else:
        pytest.fail("it never came to its end")
    assert number >= 2 and content(tmp_path / "shards") == content(tmp_path / "whole")


def test_a_damaged_store_makes_no_shards(tmp_path, there):
    with open(there.directory / "pixels.npy", "r+b") as file:
        file.seek(1000)
        file.write(b"\x01\x02\x03")
    with pytest.raises(Mistake, match="differ from their checksum"):
        tar_shards.write_shards(store.open_store(there.directory), tmp_path / "shards", 7, say=quiet)
    assert (
        not list((tmp_path / "shards").glob("*.tar")) and not (tmp_path / "shards" / "manifest.json").exists()
    )


def test_a_column_that_json_cannot_hold_is_one_line(tmp_path, there):
    there.__dict__["metadata"] = there.metadata.assign(when=pd.Timestamp("2026-01-01"))
    with pytest.raises(Mistake, match="column 'when' of the metadata is of type datetime64"):
        tar_shards.write_shards(there, tmp_path / "shards", 7, say=quiet)


def test_a_full_disk_is_one_line(tmp_path, there, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tar_shards, "_write_shard", full)
    with pytest.raises(Mistake, match="shards. is full .No space left on device.; make room"):
        tar_shards.write_shards(there, tmp_path / "shards", 7, say=quiet)


def test_foreign_shards_by_the_documented_rules(tmp_path):
    rng = np.random.default_rng(0)
    images = [rng.normal(size=(3, *SHAPE)).astype(dtype) for dtype in ("<f4", ">f4", "<f8", "<f2")] + [
        rng.integers(0, 255, (3, *SHAPE)).astype("u1")
    ]
    said = {"bands": "gri", "domain": "cfht", "mood": "blue", "n": 3, "l": [1]}
    raws = [
        b"".join(
            member(f"x/{number}.{suffix}", content)
            for suffix, content in (
                ("image.npy", npy(np.asfortranarray(image))),
                ("cls", b"1\n"),
                ("txt", b"prose"),
                ("jpg", b"\xff\xd8"),
                ("json", json.dumps(said | {"redshift": None if number else 0.1}).encode()),
            )
        )
        for number, image in enumerate(images)
    ]
    bad = (
        member("bad.npy", npy(np.full(SHAPE, np.nan)))
        + member("size.npy", npy(np.ones((7, 7))))
        + member("large.npy", npy(np.full(SHAPE, 1e300)))
    )
    passed_over = member("__meta__/x.npy", b"?") + member(".hidden.npy", b"?") + member("README", b"?")
    folder = shards_of(tmp_path / "shards", closed(*raws), closed(passed_over, bad))
    source = shard_source.open_source(directory=folder)
    assert list(source.index["band"][:3]) == ["g", "r", "i"] and list(source.index["band"][15:]) == [
        "",
        "",
        "",
    ]
    assert list(source.index["path"][[0, 15]]) == ["0.tar#x/0", "1.tar#bad"] and list(
        source.index["object"][[0, 15]]
    ) == ["x/0", "bad"]
    assert list(source.index["domain"][[0, 15]]) == ["cfht", "tar_shards"] and list(
        source.index["label"][[0, 15]]
    ) == [1, -1]
    pixels, reasons = source.read(range(18))
    assert np.array_equal(pixels[:15], np.concatenate(images).astype("f4")) and not pixels[15:].any()
    assert reasons == {
        15: "30 of 30 pixels are not finite",
        16: "is 7x7, expected 6x5",
        17: "30 of 30 pixels are not finite",
    }
    known = source.metadata
    assert (
        known["redshift"][0] == 0.1
        and known["redshift"].isna().sum() == 7
        and list(known["tar_shards_mood"][:6]) == ["blue"] * 5 + [""]
    )
    assert (
        known["tar_shards_n"].dtype == np.float64
        and "tar_shards_l" not in known
        and known["bands"][0] == "g r i"
    )
    back = store.pack_cutouts(source.index, tmp_path / "store", source.shape, 2, "digest", quiet, source)
    assert np.array_equal(back.pixels, pixels) and back.manifest["quarantined"] == 3


def test_classes_of_foreign_shards_are_kept_when_they_are_no_labels(tmp_path):
    folder = shards_of(
        tmp_path / "shards",
        closed(
            *(
                member(f"{number}.{suffix}", raw)
                for number in range(3)
                for suffix, raw in (
                    ("npy", npy(np.zeros((*SHAPE, 3), np.uint8))),
                    ("cls", b"%d" % (7 * number)),
                )
            )
        ),
    )
    source = shard_source.open_source(directory=folder, labelled=False, channels="last", bands="grz")
    assert (
        set(source.index["label"]) == {-1}
        and list(source.metadata["tar_shards_cls"]) == [0, 7, 14]
        and len(source.index) == 9
    )
    with pytest.raises(Mistake, match="label is '7'.*--no_labelled"):
        shard_source.open_source(directory=folder, channels="last")


def refused_at_once(call) -> str:
    """The line of the refusal. The least of a few turns counts:
    first imports, and the garbage of a process full of other tests, are not its fault.
    """
    took = []
    for _ in range(4):
        start = time.thread_time()
        with pytest.raises(Mistake) as refusal:
            call()
        took.append(time.thread_time() - start)
    assert min(took) < 0.1
    return str(refusal.value)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tars_are_refused_at_once_in_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw, word = hostile_tars(tmp_path / "canary")[name]
    folder = shards_of(tmp_path / "shards", raw)
    text = refused_at_once(lambda: shard_source.open_source(directory=folder))
    assert word in text and "0.tar" in text and text.isprintable() and len(text) < 500, text
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "shards",
        "shards/0.tar",
    ]


def test_there_are_many_hostile_tars_and_a_sound_one_among_them_passes(tmp_path):
    assert len(HOSTILE) >= 100
    source = shard_source.open_source(
        directory=shards_of(tmp_path / "shards", sample(json=b'{"bands": "gr"}', cls=b"1"))
    )
    assert list(source.index["band"]) == ["g", "r"] and source.read(range(2))[0].all()


def test_a_thousand_spoiled_shards_are_refused_or_read(tmp_path, there):
    """Whatever bytes are changed: a Mistake or the same samples, nothing else."""
    rng, raw = (
        np.random.default_rng(0),
        closed(
            *(
                member(f"{n}.{suffix}", content)
                for n in range(4)
                for suffix, content in (
                    ("npy", npy()),
                    ("json", b'{"bands": "gr", "redshift": 0.5}'),
                    ("cls", b"1"),
                )
            )
        ),
    )
    outcomes = []
    for _ in range(1000):
        spoiled = bytearray(raw)
        for _ in range(rng.integers(1, 4)):
            at = rng.integers(0, len(spoiled))
            spoiled[at : at + rng.integers(0, 3)] = rng.bytes(rng.integers(0, 3))
        try:
            source = shard_source.open_source(directory=shards_of(tmp_path / "shards", bytes(spoiled)))
            source.read(range(len(source.index)))
            outcomes.append(True)
        except Mistake as mistake:
            assert "\n" not in str(mistake)
            outcomes.append(False)
    assert 0 < sum(outcomes) < 1000


def test_hostile_manifests_are_refused_in_one_line(tmp_path, there):
    tar_shards.write_shards(there, tmp_path / "shards", 7, say=quiet)
    path = tmp_path / "shards" / "manifest.json"
    spoiled = hostile_manifests(json.loads(path.read_bytes()))
    assert len(spoiled) >= 30
    for name, manifest in spoiled.items():
        path.write_text(json.dumps(manifest))
        text = refused_at_once(lambda: shard_source.open_source(directory=str(tmp_path / "shards")).index)
        assert "shards" in text and "\n" not in text, name


def test_a_flipped_bit_of_a_shard_is_one_line(tmp_path, there):
    tar_shards.write_shards(there, tmp_path / "shards", 7, say=quiet)
    path = tmp_path / "shards" / "shard-000001.tar"
    raw = bytearray(path.read_bytes())
    raw[1700] ^= 1
    path.write_bytes(raw)
    for use in (lambda source: source.index, lambda source: source.read(range(len(there.index)))):
        with pytest.raises(Mistake, match="shard-000001.tar: .*not those of manifest.json"):
            use(shard_source.open_source(directory=str(tmp_path / "shards")))


@pytest.mark.parametrize(
    "place",
    [
        "pipe:touch canary",
        "pipe:cat x.tar",
        "file:///etc/passwd",
        "http://localhost/x.tar",
        "s3://bucket/x.tar",
    ],
)
def test_commands_and_urls_are_not_opened(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Mistake, match="expected a path"):
        shard_source.open_source(directory=place)
    assert not list(tmp_path.iterdir())


def test_what_is_no_plain_file_is_not_waited_for(tmp_path):
    (tmp_path / "shards").mkdir()
    with pytest.raises(Mistake, match="holds no .tar file"):
        shard_source.open_source(directory=str(tmp_path / "shards"))
    os.mkfifo(tmp_path / "shards" / "a.tar")
    with pytest.raises(Mistake, match="expected a plain file"):
        shard_source.open_source(directory=str(tmp_path / "shards"))
    shutil.rmtree(tmp_path / "shards")
    with pytest.raises(Mistake, match="cannot be opened: No such file"):
        shard_source.open_source(directory=str(tmp_path / "shards"))
