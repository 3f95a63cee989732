"""data/tar_shards/foreign.py and labels.py: tar files of others, what is taken for what, and that it is said;
`convert.py shards` from FITS stores and back.
"""

import io
import json

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from PIL import Image

import convert
from data.cutouts import store
from data.tar_shards.source import open_source
from data.tar_shards.writer import write_shards
from tests.data.tar_shards.test_writer import quiet, shards_of
from tests.hostile_tars import closed, member, npy
from utils.mistake import Mistake

RNG = np.random.default_rng(3)


def picture(pixels, kind="PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def samples_of(members: dict[str, bytes]) -> bytes:
    return closed(*(member(name, content) for name, content in members.items()))


def said(source) -> str:
    return "\n".join(source.report)


def test_images_with_their_bands_last_are_recognised_and_said(tmp_path):
    """Six 32x32x3 images became 192 images of 32 bands."""
    images = RNG.normal(size=(6, 32, 32, 3)).astype("f4")
    folder = shards_of(tmp_path / "t", samples_of({f"{n}.npy": npy(image) for n, image in enumerate(images)}))
    source = open_source(directory=folder, bands=["g", "r", "i"])
    assert source.shape == (32, 32) and source.index["band"].tolist() == ["g", "r", "i"] * 6
    assert np.array_equal(source.read(range(18))[0], np.moveaxis(images, 3, 1).reshape(18, 32, 32))
    assert "6 .npy members of shape [32, 32, 3] are taken as [H, W, C], 3 bands of 32x32" in said(source)
    assert open_source(directory=folder, channels="first").shape == (32, 3)
    first = shards_of(tmp_path / "f", samples_of({"a.npy": npy(np.moveaxis(images[0], 2, 0))}))
    assert "[3, 32, 32] are taken as [C, H, W], 3 bands of 32x32" in said(open_source(directory=first))


@pytest.mark.parametrize("shape", [(3, 3, 3), (3, 32, 3), (3, 3, 5), (5, 3, 3), (8, 4, 8)])
def test_a_shape_that_may_be_either_is_refused_with_the_flag(tmp_path, shape):
    folder = shards_of(tmp_path / "t", samples_of({"a.npy": npy(np.ones(shape, "f4"))}))
    with pytest.raises(Mistake, match="a.npy.*--channels first or --channels last"):
        open_source(directory=folder)
    assert len(open_source(directory=folder, channels="last").index) == shape[2]
    names = [str(number) for number in range(shape[0])]
    if shape[0] != shape[2]:  # the bands that are named say which it is
        assert open_source(directory=folder, bands=names).shape == shape[1:]


def test_samples_that_lie_differently_are_refused(tmp_path):
    raw = samples_of({"a.npy": npy(np.ones((3, 8, 8), "f4")), "b.npy": npy(np.ones((8, 8, 3), "f4"))})
    with pytest.raises(Mistake, match="samples lie differently, 'a.npy' .C, H, W. and 'b.npy' .H, W, C."):
        open_source(directory=shards_of(tmp_path / "t", raw))


def test_pictures_are_read_and_said_to_be_no_flux(tmp_path):
    colours = RNG.integers(0, 256, (10, 12, 3), dtype=np.uint8)
    alpha = np.dstack([colours[::-1], np.full((10, 12), 200, np.uint8)])
    deep = RNG.integers(0, 2**16, (10, 12), dtype=np.uint16)
    raw = samples_of(
        {
            "a.png": picture(colours),
            "a.cls": b"1",
            "b.image.png": picture(alpha),
            "b.cls": b"0",
            "c.jpg": picture(np.full((10, 12, 3), 77, np.uint8), "JPEG"),
            "d.png": picture(deep),
            "e.png": b"\x89PNG\r\n\x1a\nno more",
            "f.png": picture(colours)[:-60],
            "g.png": picture(colours[:5]),
        }
    )
    source = open_source(directory=shards_of(tmp_path / "t", raw))
    assert source.index["band"].tolist()[:9] == ["red", "green", "blue"] * 3
    assert source.index["band"].tolist()[9:] == ["", *["red", "green", "blue"] * 3]
    assert source.index["label"].tolist()[:7] == [1, 1, 1, 0, 0, 0, -1]
    pixels, bad = source.read(range(len(source.index)))
    assert np.array_equal(pixels[:3], np.moveaxis(colours, 2, 0))
    assert np.array_equal(pixels[3:6], np.moveaxis(colours[::-1], 2, 0)) and (pixels[6:9] == 77).all()
    assert np.array_equal(pixels[9], deep)
    assert sorted(bad) == list(range(10, 19)) and not pixels[10:].any()
    assert "no PNG or JPEG" in bad[10] and "no whole picture" in bad[13]
    assert bad[16] == "is 5x12, expected 10x12"
    assert "7 pictures (PNG or JPEG): " in said(source) and "no physical flux" in said(source)
    assert "an alpha plane is left out of 1 pictures" in said(source)


def test_what_is_passed_over_is_counted(tmp_path):
    raw = [
        samples_of(
            {
                f"x/{n}.npy": npy(RNG.integers(0, 9, (2, 4, 4)).astype("u1")),
                f"x/{n}.jpg": b"\xff\xd8",
                f"x/{n}.seg.bin": b"1",
                f"x/{n}.json": json.dumps({"objid": 1237648720693755918 + n, "box": [1, 2]}).encode(),
                f"x/README{n}": b"?",
            }
        )
        for n in range(3)
    ]
    source = open_source(directory=shards_of(tmp_path / "t", *raw))
    text = said(source)
    assert "members not used: .jpg 3, .seg.bin 3" in text and "0.tar: members without a suffix" in text
    assert "lists and objects in the JSON, not used: box 3" in text and "3 .npy members are uint8" in text
    assert "do not name their bands: 0, 1, 2" in text and "it is their key; their JSON has also objid" in text
    assert "every one is -1, unknown" in text
    # no digit of an id is lost on its way through a float
    assert source.metadata["tar_shards_objid"].tolist() == [str(1237648720693755918 + n) for n in range(3)]
    named = open_source(directory=str(tmp_path / "t"), id_column="objid")
    assert named.metadata["object"].tolist() == source.metadata["tar_shards_objid"].tolist()
    with pytest.raises(Mistake, match="JSON has no 'nsa' .--id_column"):
        open_source(directory=str(tmp_path / "t"), id_column="nsa")


def test_keys_that_begin_anew_in_each_tar_are_told_apart(tmp_path):
    raw = [
        samples_of({f"{n}.npy": npy(np.full((2, 4, 4), 10 * t + n, "f4")) for n in range(3)}) for t in (0, 1)
    ]
    source = open_source(directory=shards_of(tmp_path / "t", *raw))
    assert source.index["object"].tolist()[::2] == ["0/0", "0/1", "0/2", "1/0", "1/1", "1/2"]
    assert source.read(range(12))[0][::2, 0, 0].tolist() == [0, 1, 2, 10, 11, 12]
    assert "keys that came before in another tar file: 3" in said(source)
    assert source.metadata["object"].is_unique


def test_labels_that_contradict_each_other_are_unknown(tmp_path):
    raw = samples_of(
        {
            name: content
            for n, (text, number) in enumerate([(b'{"label": 1}', b"0"), (b'{"label": null}', b"1")])
            for name, content in ((f"{n}.npy", npy()), (f"{n}.json", text), (f"{n}.cls", number))
        }
    )
    source = open_source(directory=shards_of(tmp_path / "t", raw))
    assert source.index["label"].tolist() == [-1, -1, 1, 1]
    assert "labels of a sample that differ, taken for unknown: 1" in said(source)


def test_packed_tars_are_named(tmp_path):
    folder = shards_of(tmp_path / "t")
    (tmp_path / "t" / "a.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(Mistake, match="holds no .tar file, but packed ones .a.tar.gz.: unpack them"):
        open_source(directory=folder)
    shards_of(tmp_path / "t", samples_of({"a.npy": npy()}))
    assert "packed tar files, not read: 1 (a.tar.gz)" in said(open_source(directory=folder))
    with pytest.raises(Mistake, match="no .npy members .npz.*save its array as .npy"):
        open_source(directory=shards_of(tmp_path / "z", samples_of({"a.npz": b"PK"})))


def test_a_table_of_labels_is_laid_over_the_samples(tmp_path):
    raw = samples_of({f"{name}.npy": npy() for name in ("a", "b", "é", "d", "e")} | {"e.cls": b"1"})
    folder = shards_of(tmp_path / "t", raw)
    rows = [("a", "1.0", 0.5), ("b", "0", ""), ("é", "lens", 1.5), ("d", 1, ""), ("d", 0, ""), ("q", 1, 2.5)]
    pd.DataFrame(rows, columns=["id", "label", "redshift"]).assign(colour="red").to_csv(
        tmp_path / "l.csv", index=False
    )
    source = open_source(directory=folder, labels=str(tmp_path / "l.csv"))
    by_object = source.index.groupby("object")["label"].first()
    assert by_object.to_dict() == {"a": 1, "b": 0, "é": 1, "d": -1, "e": 1}
    known = source.metadata.set_index("object")
    assert known["redshift"].fillna(-9).to_dict() == {"a": 0.5, "b": -9, "é": 1.5, "d": -9, "e": -9}
    assert known["label_source"].to_dict() == {
        "a": "table:l.csv",
        "b": "table:l.csv",
        "é": "table:l.csv",
        "d": "",
        "e": "file:tar_shards",
    }
    text = said(source)
    assert "rows without a sample: 1 ('q')" in text and "l.csv, not used: 1 (colour)" in text
    assert "rows of different labels, taken for unknown: 1 ('d')" in text
    assert "labels of the table: 2 lenses, 1 none, of 5 objects; 1 have no row" in text
    (tmp_path / "f.csv").write_text("filename,label\na.npy,0\nb.npy,1\n")
    by_file = open_source(directory=folder, labels=str(tmp_path / "f.csv"))
    assert by_file.index["label"].tolist()[:4] == [0, 0, 1, 1]
    (tmp_path / "w.csv").write_text("id,label\na,7\n")
    with pytest.raises(Mistake, match="label '7' in row 1"):
        open_source(directory=folder, labels=str(tmp_path / "w.csv"))
    (tmp_path / "o.csv").write_text("id,label\nzz,1\n")
    with pytest.raises(Mistake, match="none of its 1 rows names one of 5 objects"):
        open_source(directory=folder, labels=str(tmp_path / "o.csv"))


@pytest.fixture
def of_fits(tmp_path):
    """A store of FITS cutouts as train.py packs it: names that are not ASCII, bands missing, one file bad."""
    names = {"Ж 1": "gri", "J0029-0055": "gr", "βeta": "i"}
    for name, bands in names.items():
        for band in bands:
            (tmp_path / "D_L").mkdir(exist_ok=True)
            fits.PrimaryHDU(RNG.normal(size=(41, 41)).astype("f4")).writeto(
                tmp_path / "D_L" / f"{name}_{band}.fits"
            )
    (tmp_path / "D_L" / "bad_g.fits").write_bytes(b"SIMPLE")
    paths = sorted(map(str, (tmp_path / "D_L").glob("*.fits")))
    inventory = pd.DataFrame({"path": paths}).assign(
        object=lambda table: table["path"].str.split("/").str[-1].str[:-7],
        band=lambda table: table["path"].str[-6],
        domain="D",
        label=np.int8(1),
    )
    return store.pack_cutouts(inventory[store.COLUMNS], tmp_path / "store", workers=1, say=quiet)


def test_shards_of_a_fits_store_become_the_store_again(tmp_path, of_fits, capsys):
    """They ended in a traceback: nothing is known of their objects but their files."""
    assert of_fits.metadata is None and of_fits.manifest["quarantined"] == 1
    convert.main(["shards", "--input", str(of_fits.directory), "--output", str(tmp_path / "s")])
    convert.main(["shards", "--from", str(tmp_path / "s"), "--output", str(tmp_path / "back")])
    back = store.open_store(tmp_path / "back")
    pd.testing.assert_frame_equal(back.index, store.open_store(of_fits.directory).index)
    assert back.metadata is None and np.asarray(back.pixels).tobytes() == np.asarray(of_fits.pixels).tobytes()
    (tmp_path / "l.csv").write_text("object,label,redshift\nЖ 1,0,0.5\n", encoding="utf-8")
    labelled = ["--labels", str(tmp_path / "l.csv"), "--output", str(tmp_path / "labelled")]
    convert.main(["shards", "--from", str(tmp_path / "s"), *labelled])
    again = store.open_store(tmp_path / "labelled")
    assert again.index.groupby("object")["label"].first()["Ж 1"] == 0
    assert again.metadata.set_index("object")["redshift"]["Ж 1"] == 0.5
    assert "labels of the table: 0 lenses, 1 none, of 4 objects" in capsys.readouterr().err


def test_options_that_do_nothing_are_refused(tmp_path, of_fits):
    write_shards(of_fits, tmp_path / "s", say=quiet)
    with pytest.raises(Mistake, match="--bands: .* shards of ours, which say it themselves"):
        convert.main(["shards", "--from", str(tmp_path / "s"), "--bands", "g", "--output", "b"])
    with pytest.raises(Mistake, match="--channels: expected --from FOLDER beside it"):
        convert.main(
            [
                "shards",
                "--input",
                str(of_fits.directory),
                "--channels",
                "last",
                "--output",
                str(tmp_path / "b"),
            ]
        )


def test_shards_that_changed_are_packed_anew(tmp_path):
    folder = shards_of(tmp_path / "t", samples_of({"a.npy": npy(np.ones((2, 4, 4), "f4"))}))
    before = store.source_digest(open_source(directory=folder))
    shards_of(tmp_path / "t", samples_of({"a.npy": npy(np.zeros((2, 4, 4), "f4"))}))
    assert store.source_digest(open_source(directory=folder)) != before
