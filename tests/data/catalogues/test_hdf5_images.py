"""data/catalogues/hdf5/images.py and columns.py: layouts of HDF5 files as others write them, and what is
said of each; columns in compound tables, groups, pandas' blocks.
"""

import json

import h5py
import numpy as np
import pandas as pd
import pytest
from astropy.table import MaskedColumn, Table

import convert
from data.catalogues import galaxiesml
from data.catalogues.hdf5.images import open_source
from data.cutouts import source, store
from data.cutouts.metadata import typed_metadata, validate_metadata
from utils.mistake import Mistake

RNG = np.random.default_rng(6)
IDS = 36407192763826387 + 4 * np.arange(6)


def images(*shape) -> np.ndarray:
    return RNG.normal(size=shape).astype("f4")


def write(path, **datasets):
    """An HDF5 file; `/` in a name makes a group."""
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
    return str(path)


def said(opened) -> str:
    return "\n".join(opened.report)


def planes(opened) -> np.ndarray:
    pixels, bad = opened.read(range(len(opened.index)))
    assert not bad
    return pixels.reshape(opened.objects, len(opened.bands), *opened.shape)


CATALOGUE = np.array(
    [(IDS[n], b"COSMOS-%d" % n, 10.5 + n, -1.5, 0.25 * n, n % 2 == 0, [n, 2 * n]) for n in range(6)],
    dtype=[
        ("object_id", ">i8"),
        ("specz_name", "S20"),
        ("ra", ">f8"),
        ("dec", "f4"),
        ("specz_redshift", "f8"),
        ("specz_flag_homogeneous", "?"),
        ("x_coord_x", "f4", (2,)),
    ],
)


@pytest.mark.parametrize("where", ["catalog", "tables/catalog"])
@pytest.mark.parametrize("storage", [{}, dict(chunks=(4,), compression="gzip", shuffle=True)])
def test_a_compound_table_names_the_objects(tmp_path, where, storage):
    """Ids were invented in silence: f_000000 ..."""
    path = write(tmp_path / "f.hdf5", image=images(6, 5, 8, 8))
    with h5py.File(path, "a") as file:
        file.create_dataset(where, data=CATALOGUE, **storage)
    for opened in (galaxiesml.open_source(path), open_source(path, bands=list("grizy"))):
        assert opened.metadata["object"].tolist() == [str(number) for number in IDS]
        assert opened.metadata["ra"].tolist() == [10.5 + n for n in range(6)]
        assert opened.metadata["redshift"].tolist() == [0.25 * n for n in range(6)]
        assert validate_metadata(opened.metadata.drop(columns=["ra", "dec"])).empty
        assert f"objects are named by column object_id of table {where}" in said(opened)
        assert f"table {where} (compound): 7 columns" in said(opened)
    known = galaxiesml.open_source(path).metadata
    assert known["galaxiesml_specz_name"].tolist() == [f"COSMOS-{n}" for n in range(6)]
    assert known["galaxiesml_specz_flag_homogeneous"].tolist() == [True, False] * 3
    assert known["galaxiesml_x_coord_x_1"].tolist() == [2 * n for n in range(6)]
    assert (known["dec"] == -1.5).all()


def test_objects_without_ids_are_said(tmp_path):
    opened = galaxiesml.open_source(write(tmp_path / "f.hdf5", image=images(3, 5, 8, 8), extra=np.arange(3)))
    assert (
        "no column of ids (object_id, object, objid, ...): objects are named by the file and their row"
        in (said(opened))
    )
    assert "not used: 1 (extra (not of the catalogue))" in said(opened)


def test_texts_of_variable_length_in_a_table(tmp_path):
    """h5py writes them so; each is a pointer in memory and a longer reference in the file."""
    text = h5py.string_dtype()
    table = np.empty(5, dtype=[("a", "i2"), ("id_str", text), ("z", "f8"), ("note", text), ("n", "i4")])
    table["id_str"] = ["J1", "\u03b1 Cen", "J0408-5354", "x" * 300, "J5"]
    table["note"] = [f"{n}" * n for n in range(5)]
    table["z"], table["n"], table["a"] = np.linspace(0.1, 0.5, 5), np.arange(5), 7
    for storage in ({}, dict(chunks=(3,))):
        path = write(tmp_path / "f.hdf5", images=images(5, 2, 8, 8))
        with h5py.File(path, "a") as file:
            file.create_dataset("t", data=table, **storage)
        opened = open_source(path)
        assert opened.metadata["object"].tolist() == table["id_str"].tolist()
        assert opened.metadata["hdf5_note"].tolist() == table["note"].tolist()
        assert opened.metadata["redshift"].tolist() == table["z"].tolist()
        assert opened.metadata["hdf5_n"].tolist() == [0, 1, 2, 3, 4]
        opened.file.close()
    with h5py.File(path, "w") as file:
        file["images"] = images(5, 2, 8, 8)
        file.create_dataset("t", data=table, compression="gzip")
    with pytest.raises(Mistake, match="t holds texts of variable length that are packed.*h5repack"):
        _ = open_source(path).index


def test_a_table_whose_texts_are_lost_is_one_line_and_its_numbers_stay(tmp_path):
    """h5py would read the heap for any field, and of a damaged one may never come back."""
    table = np.empty(
        4, dtype=[("ra", "f8"), ("name", h5py.string_dtype()), ("spectrum", h5py.vlen_dtype("f4"))]
    )
    table["ra"], table["name"], table["spectrum"] = np.arange(4), list("abcd"), [np.zeros(2, "f4")] * 4
    path = write(tmp_path / "f.h5", images=images(4, 2, 8, 8), t=table, id=np.arange(4))
    whole = open_source(path, id_column="id")
    assert "t/spectrum (of type object)" in said(whole) and whole.metadata["hdf5_name"].tolist() == list(
        "abcd"
    )
    whole.file.close()
    with open(path, "rb") as file:
        content = file.read()
    with open(path, "wb") as file:
        file.write(content.replace(b"GCOL", b"gcol"))
    opened = open_source(path, id_column="id")
    assert opened.columns.column("ra").tolist() == [0, 1, 2, 3]
    with pytest.raises(Mistake, match="name of row 0 is damaged, its text is not in the file"):
        _ = opened.metadata


def test_tables_of_astropy_and_pandas(tmp_path):
    path = str(tmp_path / "f.hdf5")
    Table(
        {
            "objid": IDS,
            "redshift": MaskedColumn([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], mask=[0, 1, 0, 0, 0, 0]),
            "mass": MaskedColumn([1, 2, 3, 4, 5, 6], mask=[0, 0, 1, 0, 0, 0]),
        }
    ).write(path, path="cat", format="hdf5", serialize_meta=True)
    with h5py.File(path, "a") as file:
        file["images"] = images(6, 3, 8, 8)
        # pandas' fixed format
        file["frame/block0_items"] = np.array([b"sersic_n", b"q"])
        file["frame/block0_values"] = np.arange(12.0).reshape(6, 2)
        file["frame/axis1"] = np.arange(6)
        # and its table format, whose names are in a pickle
        file["other/table"] = np.zeros(6, dtype=[("index", "i8"), ("values_block_0", "f8", (2,))])
    opened = open_source(path)
    known = opened.metadata
    assert known["object"].tolist() == [str(number) for number in IDS]
    assert known["redshift"].tolist() == pytest.approx([0.1, np.nan, 0.3, 0.4, 0.5, 0.6], nan_ok=True)
    assert known["hdf5_mass"].tolist() == pytest.approx([1, 2, np.nan, 4, 5, 6], nan_ok=True)
    assert known["hdf5_sersic_n"].tolist() == [0, 2, 4, 6, 8, 10] and known["hdf5_q"][5] == 11
    text = said(opened)
    assert "masked or filled values, taken for missing: redshift 1, mass 1" in text
    assert "other/table/values_block_0 (pandas keeps the names" in text


def test_groups_fills_and_other_lengths(tmp_path):
    path = write(
        tmp_path / "f.hdf5",
        **{
            "train/images": images(4, 3, 8, 8),
            "train/label": np.array([1, np.nan, 0, -1]),
            "train/id": np.array([b"a  ", b"b\0\0x", b"c", b"d"], dtype="S4"),
            "train/meta/flux": np.array([1.0, 9.96921e36, 3, 4]),
            "test/images": images(2, 3, 8, 8),
            "test/label": np.array([0, 1]),
        },
    )
    with h5py.File(path, "a") as file:
        file["train/meta/flux"].attrs["_FillValue"] = 9.96921e36
    with pytest.raises(
        Mistake, match="there are 2 of four axes .test/images, train/images.: .*--images NAME"
    ):
        open_source(path)
    opened = open_source(path, images="train/images")
    assert opened.index["label"].tolist() == np.repeat([1, -1, 0, -1], 3).tolist()
    assert opened.metadata["object"].tolist() == ["a", "b", "c", "d"]
    assert opened.metadata["hdf5_flux"].tolist() == pytest.approx([1, np.nan, 3, 4], nan_ok=True)
    text = said(opened)
    assert "labels of column label: 1 lenses, 1 none, 2 unknown" in text
    assert "test/images (of shape [2, 3, 8, 8])" in text and "test/label (of shape [2])" in text
    with pytest.raises(Mistake, match="no data set 'x/y' .--images"):
        open_source(path, images="x/y")


@pytest.mark.parametrize(
    "columns, words",
    [
        (dict(label=np.zeros(5)), r"label has shape \(5,\), expected one value for each of 4 objects"),
        (dict(objid=np.arange(5)), r"objid has shape \(5,\), expected one value for each of 4 objects"),
        (dict(t=np.zeros(5, [("object_id", "i8")])), "table t, which has a column object_id, is of shape"),
        (dict(id=np.arange(4) + 0.5), "id is of type float64, expected whole numbers"),
        (dict(id=np.arange(4, dtype="f4") + 2e8), "id is of type float32, expected whole numbers"),
        (dict(label=np.array([0.1, 0.9, 1, 0])), "label holds other values than 1, 0 and -1"),
        (dict(label=np.zeros((4, 2))), "label has 2 values an object"),
    ],
)
def test_columns_that_contradict_the_images(tmp_path, columns, words):
    with pytest.raises(Mistake, match=words):
        _ = open_source(write(tmp_path / "f.hdf5", images=images(4, 3, 8, 8), **columns)).index


@pytest.mark.parametrize("first, shape", [((0, 1, 2, 3), (6, 3, 12, 12)), ((0, 3, 1, 2), (6, 12, 12, 3))])
def test_bands_first_and_last(tmp_path, first, shape):
    pixels = images(*shape)
    path = write(tmp_path / "f.h5", images=pixels, id=IDS)
    opened = open_source(path, bands=["g", "r", "i"])
    assert np.array_equal(planes(opened), np.transpose(pixels, first))
    letters = "[C, H, W]" if shape[1] == 3 else "[H, W, C]"
    assert f"are taken as {letters}, 3 bands of 12x12" in said(opened) and opened.shape == (12, 12)
    again = source.open_source(json.loads(json.dumps(opened.recipe)))
    assert again.index.equals(opened.index) and again.read(range(4))[0].tobytes() == (
        opened.read(range(4))[0].tobytes()
    )
    assert "the bands have no names: 0, 1, 2" in said(open_source(path))


def test_a_shape_that_may_be_either_is_refused_with_the_flag(tmp_path):
    path = write(tmp_path / "f.h5", images=images(6, 3, 3, 3))
    with pytest.raises(Mistake, match="--channels first or --channels last"):
        open_source(path)
    assert open_source(path, channels="last").order == "last"
    both = write(tmp_path / "g.h5", image=images(6, 5, 8, 5))
    with pytest.raises(Mistake, match=r"expected \[N, 5, H, W\].*--channels first"):
        galaxiesml.open_source(both)
    assert galaxiesml.open_source(both, channels="last").shape == (5, 8)
    with pytest.raises(Mistake, match="--channels 'middle'"):
        open_source(path, channels="middle")
    with pytest.raises(Mistake, match="--bands g r: 2 names, the images have 3 bands"):
        open_source(path, channels="last", bands=["g", "r"])


@pytest.mark.parametrize("axis", [1, 3])
def test_objects_on_another_axis_are_refused(tmp_path, axis):
    pixels = np.moveaxis(images(20, 3, 12, 12), 0, axis)
    path = write(tmp_path / "f.h5", images=pixels, id=np.arange(20), ra=np.zeros(20))
    with pytest.raises(Mistake, match=f"the length of its axis {axis}: expected the objects on the first"):
        open_source(path, channels="first" if axis == 1 else "last")


def test_bands_or_objects_in_data_sets_of_their_own_are_named(tmp_path):
    path = write(tmp_path / "f.h5", g=images(6, 8, 8), r=images(6, 8, 8), id=np.arange(6))
    with pytest.raises(
        Mistake, match="none of four axes, 2 of three .g, r.: expected all objects and bands in"
    ):
        open_source(path)
    one = open_source(path, images="g", bands=["g"])
    assert one.index["band"].tolist() == ["g"] * 6 and "r (of shape [6, 8, 8])" in said(one)


def test_one_band(tmp_path):
    pixels = images(5, 9, 7).astype("f2")
    opened = open_source(write(tmp_path / "f.h5", data=pixels, name=np.array([b"a", b"b", b"c", b"d", b"e"])))
    assert opened.index["band"].tolist() == [""] * 5 and opened.shape == (9, 7)
    assert np.array_equal(planes(opened)[:, 0], pixels.astype("f4"))


@pytest.mark.parametrize("side, classes", [(69, "disk, face-on, no spiral"), (256, "disturbed")])
def test_galaxy10(tmp_path, side, classes):
    pixels = RNG.integers(0, 256, (4, side, side, 3), dtype=np.uint8)
    path = write(
        tmp_path / "Galaxy10.h5",
        images=pixels,
        ans=np.array([0, 9, 5, 1], np.uint8),
        ra=np.array([1.0, 2, 3, 4]),
        dec=np.array([5.0, 6, 7, 8]),
        redshift=np.array([0.05, np.nan, -9999, 0.2]),
        pxscale=np.array([0.262, 0.262, 0.524, 0.262]),
    )
    opened = open_source(path, image_size=side * 2)
    assert (
        opened.index["band"].tolist() == ["red", "green", "blue"] * 4 and (opened.index["label"] == -1).all()
    )
    known = typed_metadata(opened.metadata)
    assert known["galaxy10_ans"].tolist() == [0, 9, 5, 1] and known["galaxy10_class"][0] == classes
    assert known["pixel_scale"].tolist() == pytest.approx([0.131, 0.131, 0.262, 0.131])
    assert known["redshift"].tolist() == pytest.approx([0.05, np.nan, np.nan, 0.2], nan_ok=True)
    assert (known["source_catalog"] == "galaxy10").all() and known["ra"].tolist() == [1, 2, 3, 4]
    assert known["bands"].tolist() == ["red green blue"] * 4
    whole = open_source(path)
    assert np.array_equal(planes(whole), np.moveaxis(pixels, 3, 1))
    text = said(opened)
    assert "no physical flux" in text and "no lens labels" in text and "Galaxy10_000000 on" in text
    assert "outside -0.01 to 15, taken for missing: 1" in text
    with pytest.raises(Mistake, match="Galaxy10 is for convert.py hdf5"):
        galaxiesml.open_source(path)


def test_classes_are_kept_and_are_no_lens_labels(tmp_path):
    path = write(tmp_path / "f.h5", image=images(4, 5, 8, 8), labels=np.array([0, 1, 2, 7]))
    for opened, name in ((galaxiesml.open_source(path), "galaxiesml"), (open_source(path), "hdf5")):
        assert (opened.index["label"] == -1).all()
        assert opened.metadata[f"{name}_labels"].tolist() == [0, 1, 2, 7]
        assert "column labels has 4 classes (0, 1, 2, 7), no lens labels" in said(opened)
    other = write(tmp_path / "y.h5", X=images(4, 3, 8, 8), y=np.array([0, 1, 1, 0]))
    assert "columns that could be: y (--label_column)" in said(open_source(other))
    chosen = open_source(other, label_column="y")
    assert chosen.index["label"].tolist()[::3] == [0, 1, 1, 0] and "hdf5_y" not in chosen.metadata
    two = write(
        tmp_path / "two.h5", images=images(2, 3, 8, 8), label=np.array([0, 1]), labels=np.array([5, 6])
    )
    assert open_source(two).metadata["hdf5_labels"].tolist() == [5, 6]
    words = write(tmp_path / "g.h5", image=images(3, 5, 8, 8), label=np.array([b"lens", b"nonlens", b""]))
    assert open_source(words).index["label"].tolist() == np.repeat([1, 0, -1], 5).tolist()


def test_convert_packs_it(tmp_path, capsys):
    pixels = images(6, 12, 12, 3)
    path = write(tmp_path / "f.h5", images=pixels, objid=IDS, ra=np.linspace(1, 2, 6), dec=np.zeros(6))
    convert.main(["hdf5", "--input", path, "--output", str(tmp_path / "s"), "--bands", "g", "r", "i"])
    packed = store.open_store(tmp_path / "s")
    assert np.array_equal(packed.pixels, np.moveaxis(pixels, 3, 1).reshape(18, 12, 12))
    assert packed.metadata["object"].tolist() == [str(number) for number in IDS]
    err = capsys.readouterr().err
    assert "convert.py: images: 6 images of shape [12, 12, 3] are taken as [H, W, C], 3 bands of 12x12" in err
    convert.main(["shards", "--input", str(tmp_path / "s"), "--output", str(tmp_path / "t")])
    convert.main(["shards", "--from", str(tmp_path / "t"), "--output", str(tmp_path / "b")])
    pd.testing.assert_frame_equal(store.open_store(tmp_path / "b").metadata, packed.metadata)
