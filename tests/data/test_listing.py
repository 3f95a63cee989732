"""data/listing.py: folders, links and manifests as they are found in the wild, whoever asks."""

import gzip
import os

import pytest

from data import listing
from data.cutouts import buckets
from data.light_curves.packed import list_light_curves
from data.listing import RealPaths, list_images, read_listing, walk_folders
from utils.mistake import Mistake


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_folder_after_folder_each_sorted(tmp_path):
    for name in (
        "b.fits",
        "a.fits",
        "z/2.fits",
        "z/1.FITS.GZ",
        "a/y/3.fits",
        "a/4.fits",
        "a/no.txt",
        "skip.fits",
    ):
        touch(tmp_path / name)
    (tmp_path / "gone.fits").symlink_to("nowhere.fits")
    (tmp_path / "linked.fits").symlink_to("a.fits")
    folders = list(walk_folders(str(tmp_path), (".fits", ".fits.gz"), {"skip.fits"}))
    assert [os.path.relpath(folder.path, tmp_path) for folder in folders] == [".", "a", "a/y", "z"]
    assert [folder.names for folder in folders] == [
        ["a.fits", "b.fits", "gone.fits", "linked.fits"],
        ["4.fits"],
        ["3.fits"],
        ["1.FITS.GZ", "2.fits"],
    ]
    assert folders[0].links == {"gone.fits", "linked.fits"} and folders[0].below == ["a", "z"]
    assert folders[2].paths == [str(tmp_path / "a/y/3.fits")]


def test_each_folder_is_walked_once_however_it_is_linked(tmp_path):
    touch(tmp_path / "in/a/1.fits")
    touch(tmp_path / "disk/2.fits")
    (tmp_path / "in/a/up").symlink_to("..")
    (tmp_path / "in/b").symlink_to("../disk")
    (tmp_path / "in/c").symlink_to("../disk")
    (tmp_path / "disk/self").symlink_to(".")
    (tmp_path / "in/round").symlink_to("round")  # a link to itself: no folder, and no file of ours
    found = [path for folder in walk_folders(str(tmp_path / "in"), (".fits",)) for path in folder.paths]
    assert found == [str(tmp_path / "in/a/1.fits"), str(tmp_path / "in/b/2.fits")]


def test_a_folder_that_may_not_be_read_is_named_by_everyone(tmp_path, monkeypatch):
    """Not passed over: what lies in it would be missing without a word."""
    touch(tmp_path / "in/a.fits")
    touch(tmp_path / "in/locked/b.fits")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(listing.os, "scandir", refuse)
    top = str(tmp_path / "in")
    for look in (
        lambda: list(list_images(top)),
        lambda: buckets.inventory_of_images(top),
        lambda: list_light_curves(top),
    ):
        with pytest.raises(Mistake, match="the folder '.*in/locked' may not be read: Permission denied"):
            look()


def test_a_name_that_no_table_can_hold_is_refused(tmp_path):
    open(os.fsencode(tmp_path) + b"/\xff.fits", "w").close()
    with pytest.raises(Mistake, match="is not UTF-8: rename the file"):
        list(walk_folders(str(tmp_path), (".fits",)))


MANIFEST = "\ufeff# ours\n\nb.fits\r\n  ../a.fits  \n/abs/c.fits\n#no.fits\nd e.fits"


@pytest.mark.parametrize("name", ["list.txt", "list.txt.gz"])
def test_a_manifest_in_any_dress(tmp_path, monkeypatch, name):
    raw = MANIFEST.encode()
    (tmp_path / name).write_bytes(gzip.compress(raw, mtime=0) if name.endswith(".gz") else raw)
    monkeypatch.setattr(listing, "LINES", 3)
    some = list(read_listing(str(tmp_path / name), "--images"))
    assert len(some) == 3  # a stream: never more lines than that in memory
    paths = [path for paths in some for path in paths]
    home = str(tmp_path)
    assert paths == [f"{home}/b.fits", f"{home}/../a.fits", "/abs/c.fits", f"{home}/d e.fits"]
    monkeypatch.chdir(tmp_path)
    assert [*read_listing(name, "--images")][0] == ["b.fits"]  # spelled as it was given
    assert [*read_listing(name, "--images", "/home")][0] == ["/home/b.fits"]


@pytest.mark.parametrize(
    "name, raw, words",
    [
        ("a.txt", b"\xff\xfe", "--data '.*a.txt' cannot be read as a manifest .text, one path a line.: "),
        ("a.txt", b"one\n\0two\n", "--data '.*a.txt' is not text: expected a manifest"),
        ("a.txt.gz", b"no gzip", "--data '.*' cannot be read as a manifest"),
        (
            "a.txt.gz",
            gzip.compress(b"a.fits\n" * 99, mtime=0)[:-9],
            "--data '.*' cannot be read as a manifest",
        ),
        (
            "a.txt.gz",
            gzip.compress(b"a.fits\n" * 99, mtime=0)[:12] + b"\xff" * 30,
            "--data '.*' cannot be read",
        ),
        (".", None, "--data '.*' cannot be read as a manifest.*Is a directory"),
    ],
)
def test_what_is_no_manifest_is_one_line_that_names_it(tmp_path, name, raw, words):
    if raw is not None:
        (tmp_path / name).write_bytes(raw)
    with pytest.raises(Mistake, match=words) as caught:
        list(read_listing(str(tmp_path / name), "--data"))
    assert "\n" not in str(caught.value)


def test_real_paths_agree_with_the_system_s(tmp_path):
    touch(tmp_path / "a/b/real_g.fits")
    (tmp_path / "a/link").symlink_to("b")
    (tmp_path / "one_g.fits").symlink_to("a/link/real_g.fits")
    (tmp_path / "two_g.fits").symlink_to("./one_g.fits")
    (tmp_path / "three_g.fits").symlink_to(tmp_path / "a/../two_g.fits")
    (tmp_path / "gone_g.fits").symlink_to("a/nothing.fits")
    resolve = RealPaths()
    for path in [
        *tmp_path.glob("*.fits"),
        tmp_path / "a/link/real_g.fits",
        tmp_path / "a/b/../link/real_g.fits",
    ]:
        assert resolve(str(path)) == os.path.realpath(path)


def test_a_line_break_in_a_name_is_refused_where_names_become_lines(tmp_path):
    touch(tmp_path / "in/two\nlines_g.fits")
    with pytest.raises(Mistake, match="is no line of text: rename the file"):
        list(list_images(str(tmp_path / "in")))
    assert len(buckets.inventory_of_images(tmp_path / "in")) == 1


def test_no_cut_parts_the_bands_of_an_object():
    some = [[f"/x/{name}_{band}.fits" for band in "gri"] for name in "abcd"]
    assert list(map(len, listing.cut_between_objects(iter(some), 4))) == [6, 6]
    assert list(map(len, listing.cut_between_objects(iter(some), 3))) == [3, 3, 3, 3]
    assert list(map(len, listing.cut_between_objects(iter(some), 100))) == [12]
    named = [[f"/x/{name}_{band}.fits" for band in ("H", "HSC-G", "VIS", "my.B")] for name in "ab"]
    assert list(map(len, listing.cut_between_objects(iter(named), 2, {"my.B": "B"}))) == [4, 4]
    assert list(map(len, listing.cut_between_objects(iter(named), 2))) == [3, 4, 1]  # a_my.B is an object


def test_home_and_variables_in_a_manifest(tmp_path, monkeypatch):
    """As a shell reads them; what is no user and no variable is a name."""
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("CUTOUTS", "/data/cutouts")
    monkeypatch.delenv("NOWHERE", raising=False)
    names = ["~/a_g.fits", "$HOME/b_g.fits", "${CUTOUTS}/x$HOME_g.fits", "$NOWHERE/c.fits", "~nobody!/d.fits"]
    (tmp_path / "list.txt").write_text("\n".join(names))
    home = str(tmp_path) + "/"
    assert [*read_listing(str(tmp_path / "list.txt"), "--images")][0] == [
        "/home/me/a_g.fits",
        "/home/me/b_g.fits",
        "/data/cutouts/x$HOME_g.fits",
        home + "$NOWHERE/c.fits",
        home + "~nobody!/d.fits",
    ]
