"""data/cutouts/buckets.py: names, folders, links and manifests as they are found in the wild."""

import os

import numpy as np
import pandas as pd
import pytest

from data.cutouts import buckets
from data.names import is_blind, parse_name
from utils.mistake import Mistake


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def rows(table, *columns):
    return [tuple(row) for row in table[list(columns)].itertuples(index=False)]


@pytest.mark.parametrize(
    "name, expected",
    [
        ("D1_L_00000000_g.fits", ("D1_L_00000000", "g")),
        ("deep/er/D2_N_00025866_y.fits.gz", ("D2_N_00025866", "y")),
        ("object_00000_g.fits", ("object_00000", "g")),
        ("PS1-test_z.fit", ("PS1-test", "z")),
        ("SDSSJ0029-0055.fits", ("SDSSJ0029-0055", "")),
        ("VICS82-test_Ks.fits", ("VICS82-test", "Ks")),
        ("7-cutout-HSC-I-8279-pdr2_wide.fits", ("7-cutout-HSC-I-8279-pdr2_wide", "")),
        ("a.b_r.FITS", ("a.b", "r")),
        ("u.fits", ("u", "")),
        ("_u.fits", ("_u", "")),
        ("no_suffix_i", ("no_suffix", "i")),
        ("two\nlines_i.fits", ("two\nlines", "i")),
    ],
)
def test_the_object_and_band_of_a_name(name, expected):
    assert parse_name(name) == expected


def test_only_the_challenge_s_blind_ids_are_blind():
    blind = ["object_0", "object_00017"]
    assert [
        name for name in [*blind, "object_", "object_1a", "my_object_1", "D1_L_00000000"] if is_blind(name)
    ] == blind


def test_the_release_s_own_layout(tmp_path):
    """Each folder holds a folder of its own name, a manifest and the truth table (research/lens.md 1a)."""
    for bucket, letter in (("hsc_lenses", "D2_L"), ("slsim_lenses", "D1_L"), ("slsim_nonlenses", "D1_N")):
        for name in ("00000001_g", "00000000_r", "00000000_g"):
            touch(tmp_path / bucket / bucket / f"{letter}_{name}.fits")
        touch(tmp_path / bucket / "parameters.fits")
        touch(tmp_path / bucket / "_manifest.txt")
    table = buckets.inventory_of_buckets(buckets.find_buckets(tmp_path))
    assert (
        list(table.columns) == ["path", "object", "band", "domain", "label"]
        and table["label"].dtype == np.int8
    )
    assert rows(table, "object", "band", "domain", "label") == [
        (f"{letter}_{name}", band, domain, label)
        for letter, domain, label in (("D1_L", "slsim", 1), ("D1_N", "slsim", 0), ("D2_L", "hsc", 1))
        for name, band in (("00000000", "g"), ("00000000", "r"), ("00000001", "g"))
    ]
    assert table["path"][0] == str(tmp_path / "slsim_lenses/slsim_lenses/D1_L_00000000_g.fits")


def test_what_is_no_cutout_is_not_an_input(tmp_path, capsys):
    for name in (
        "a_g.fits",
        "b_g.fits.gz",
        "c.fit",
        "d.fits.fz",
        "f_r.fts",
        "g_z.FITS.bz2",
        "h.fz",
        "notes.txt",
        "e.fits.tmp",
        "lens.png",
        "lens.JPG",
        "other.png",
        ".hidden.png",
        ".DS_Store",
        "Thumbs.db",
        "parameters.fits",
    ):
        touch(tmp_path / "in" / name)
    assert rows(buckets.inventory_of_images(tmp_path / "in"), "object", "domain", "label") == [
        ("a", "unknown", -1),
        ("b", "unknown", -1),
        ("c", "unknown", -1),
        ("d", "unknown", -1),
        ("f", "unknown", -1),
        ("g", "unknown", -1),
        ("h", "unknown", -1),
    ]
    (line,) = capsys.readouterr().err.splitlines()
    assert "5 files (2 .png, 1 .tmp, 1 .jpg, 1 .txt)" in line and "skipped, as they are no FITS files" in line
    with pytest.raises(Mistake, match=r"holds no cutout.*1 files \(1 .png\)"):
        touch(tmp_path / "pictures" / "lens.png")
        buckets.inventory_of_images(tmp_path / "pictures")


def test_links_are_followed_and_circles_end(tmp_path):
    touch(tmp_path / "disk/deep/a_g.fits")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/folder").symlink_to(tmp_path / "disk")
    (tmp_path / "in/self").symlink_to(tmp_path / "in")
    (tmp_path / "disk/deep/up").symlink_to(tmp_path / "disk")
    (tmp_path / "in/gone_r.fits").symlink_to(tmp_path / "nowhere.fits")
    (tmp_path / "in/round_1.fits").symlink_to(tmp_path / "in/round_2.fits")
    (tmp_path / "in/round_2.fits").symlink_to(tmp_path / "in/round_1.fits")
    table = buckets.inventory_of_images(tmp_path / "in")
    assert rows(table, "path")[0] == (str(tmp_path / "in/folder/deep/a_g.fits"),)
    assert {"a", "gone"} <= set(table["object"])  # a broken link is an input too, for the quarantine to name


def test_folders_and_files_are_sorted_as_one_list(tmp_path):
    """The order of an inventory is the order of a store's rows: it must not change."""
    for name in ("b", "a/z", "a/b/c", "a.b/x", "aa", "a-/y", "ab/k/l", "c"):
        touch(tmp_path / "in" / f"{name}.fits")
    found = [
        os.path.relpath(path, tmp_path / "in")
        for path in buckets.inventory_of_images(tmp_path / "in")["path"]
    ]
    assert found == [f"{name}.fits" for name in ("a/b/c", "a/z", "a-/y", "a.b/x", "aa", "ab/k/l", "b", "c")]


def test_a_file_in_several_buckets_is_one_input_and_what_they_disagree_on_is_unknown(tmp_path):
    for name in ("D1_L_00000000_g", "D1_L_00000001_g", "D1_L_00000002_g", "D1_L_00000003_g"):
        touch(tmp_path / f"disk/{name}.fits")

    def link(bucket, number, to="disk"):
        (tmp_path / bucket).mkdir(exist_ok=True)
        (tmp_path / bucket / f"D1_L_0000000{number}_g.fits").symlink_to(
            f"../{to}/D1_L_0000000{number}_g.fits"
        )

    link("slsim_lenses", 0)
    link("slsim_lenses", 1)
    link("slsim_nonlenses", 1)
    link("slsim_lenses", 2)
    link("hsc_lenses", 2, "slsim_lenses")  # a link to a link
    for bucket in buckets.BUCKETS:
        link(bucket, 3)
    table = buckets.inventory_of_buckets({bucket: tmp_path / bucket for bucket in buckets.BUCKETS})
    assert rows(table, "object", "domain", "label") == [
        ("D1_L_00000000", "slsim", 1),
        ("D1_L_00000001", "slsim", -1),
        ("D1_L_00000002", "unknown", 1),
        ("D1_L_00000003", "unknown", -1),
    ]
    assert table["label"].dtype == np.int8


def test_the_blind_test_linked_into_four_buckets_has_no_label(tmp_path):
    for bucket in buckets.BUCKETS:
        (tmp_path / bucket).mkdir()
        for number in range(3):
            source = touch(tmp_path / f"test_dataset_updated/object_{number:05d}_g.fits")
            (tmp_path / bucket / source.name).symlink_to(source)
    table = buckets.inventory_of_buckets(buckets.find_buckets(tmp_path))
    assert rows(table, "object", "band", "domain", "label") == [
        (f"object_{number:05d}", "g", "unknown", -1) for number in range(3)
    ]
    alone = buckets.inventory_of_buckets({"hsc_lenses": tmp_path / "hsc_lenses"})
    assert set(alone["label"]) == {-1} and set(alone["domain"]) == {"unknown"}


def test_manifests(tmp_path):
    touch(tmp_path / "disk/b_r.fits")
    touch(tmp_path / "disk/a_g.fits")
    manifest = tmp_path / "lists" / "lenses.txt"
    manifest.parent.mkdir()
    manifest.write_text(
        f"# our\n\n../disk/b_r.fits\n  {tmp_path}/disk/a_g.fits  "
        "\r\n../disk/../disk/b_r.fits\n../disk/missing_i.fits"
    )
    table = buckets.inventory_of_buckets({"slsim_lenses": manifest, "hsc_lenses": None, "hsc_nonlenses": ""})
    # their order is the input order
    assert rows(table, "object", "band", "label") == [("b", "r", 1), ("a", "g", 1), ("missing", "i", 1)]
    assert table["path"][1] == str(tmp_path / "disk/a_g.fits") and os.path.exists(table["path"][0])


def test_what_a_person_gets_wrong_is_said_with_the_cure(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank.txt").write_text("# nothing\n\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    touch(tmp_path / "one_g.fits")
    for sources, words in [
        ({"slsim_lens": tmp_path}, "unknown bucket 'slsim_lens'.*did you mean 'slsim_lenses'"),
        ({}, "no data: give at least one of --slsim_lenses"),
        (
            {"hsc_lenses": tmp_path / "nowhere"},
            "--hsc_lenses '.*nowhere' does not exist: expected a folder of cutouts or a manifest",
        ),
        (
            {"hsc_lenses": tmp_path / "empty"},
            "--hsc_lenses '.*empty' holds no cutout: expected files named like",
        ),
        ({"hsc_lenses": tmp_path / "blank.txt"}, "lists no file"),
        ({"hsc_lenses": tmp_path / "binary.txt"}, "cannot be read as a manifest"),
        ({"hsc_lenses": tmp_path / "one_g.fits"}, "is one FITS file: expected its folder"),
    ]:
        with pytest.raises(Mistake, match=words):
            buckets.inventory_of_buckets(sources)
    with pytest.raises(Mistake, match="--images '.*nowhere' does not exist"):
        buckets.inventory_of_images(tmp_path / "nowhere")
    with pytest.raises(Mistake, match="holds none of slsim_lenses"):
        buckets.find_buckets(tmp_path)
    with pytest.raises(Mistake, match="is not a folder"):
        buckets.find_buckets(tmp_path / "nowhere")
    (tmp_path / "hsc_nonlens").mkdir()
    with pytest.raises(Mistake, match="holds 'hsc_nonlens' but no 'hsc_nonlenses': rename"):
        buckets.find_buckets(tmp_path)


def test_a_name_that_no_table_can_hold_is_refused(tmp_path):
    open(os.fsencode(tmp_path) + b"/\xff_g.fits", "w").close()
    with pytest.raises(Mistake, match="is not UTF-8: rename the file"):
        buckets.inventory_of_images(tmp_path)


def test_duplicates_are_found_by_object_and_band(tmp_path):
    for name in ("x/a_g", "x/a_r", "y/a_g", "y/b_g", "z/a_g"):
        touch(tmp_path / f"{name}.fits")
    table = buckets.duplicate_files(buckets.inventory_of_images(tmp_path))
    assert isinstance(table, pd.DataFrame)
    assert rows(table, "path", "object", "band") == [
        (str(tmp_path / f"{folder}/a_g.fits"), "a", "g") for folder in "xyz"
    ]
    assert len(buckets.duplicate_files(buckets.inventory_of_images(tmp_path / "x"))) == 0


def test_bands_by_any_usual_name(tmp_path):
    for name in ("17_VIS", "17_J", "17_H", "17_HSC-G", "18_f814w", "18_my.B", "galaxy_12_r2d2"):
        touch(tmp_path / "in" / f"{name}.fits")
    table = buckets.inventory_of_images(tmp_path / "in")
    assert rows(table, "object", "band") == [
        ("17", "H"),
        ("17", "g"),
        ("17", "J"),
        ("17", "VIS"),
        ("18", "F814W"),
        ("18_my.B", ""),
        ("galaxy_12_r2d2", ""),
    ]
    told = buckets.inventory_of_images(tmp_path / "in", {"my.B": "B", "VIS": "i"})
    assert rows(told, "object", "band")[3:6] == [("17", "i"), ("18", "F814W"), ("18", "B")]


def test_two_bands_of_an_object_that_become_one_are_refused(tmp_path):
    for bucket, name in (("hsc_lenses", "1_HSC-G"), ("slsim_lenses", "1_g")):  # two objects of one id
        touch(tmp_path / bucket / f"{name}.fits")
    assert buckets.inventory_of_buckets(buckets.find_buckets(tmp_path))["band"].tolist() == ["g", "g"]
    touch(tmp_path / "hsc_lenses" / "1_g.fits")
    with pytest.raises(Mistake, match="object '1' has the bands 'HSC-G' and 'g', and both are called 'g'"):
        buckets.inventory_of_buckets(buckets.find_buckets(tmp_path))
    kept = buckets.inventory_of_buckets(buckets.find_buckets(tmp_path), {"HSC-G": "HSC-G"})
    assert sorted(kept["band"]) == ["HSC-G", "g", "g"]
