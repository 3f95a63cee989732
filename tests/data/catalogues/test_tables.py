"""data/catalogues/tables.py: tables as people have them, written by astropy or by hand, all with the same
cells.
"""

import gzip

import numpy as np
import pandas as pd
import pytest
from astropy.io import ascii as ascii_tables, fits
from astropy.table import MaskedColumn, Table

from data.catalogues.tables import label_values, null_cells, read_table
from utils.mistake import Mistake

IDS = ["007", "588017703996096547", "DES J0408-5354"]
RA = ["10.5", "", "359.99"]
LABEL = ["1", "0", ""]


def read(path, text=None):
    lines = []
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    found = read_table(path, "--table", said=lines.append)
    return found, lines


def check(path, text=None, ids=IDS):
    found, lines = read(path, text)
    assert found["id"].tolist() == ids
    assert found["ra"].tolist() == RA and found["label"].tolist() == LABEL
    return lines


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_separators(tmp_path, separator, end):
    rows = [["id", "ra", "label"], *zip(IDS, RA, LABEL)]
    text = "\ufeff" + "".join(separator.join(row) + end for row in rows)
    if separator == "|":
        text = text.replace("id|", "id |", 1)  # and not | at the start, which IPAC has
    lines = check(tmp_path / "t.txt", text)
    assert lines == [] if separator == "," else "its columns are separated by" in lines[0]
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text.encode()))
    check(tmp_path / "t.csv.gz")


@pytest.mark.parametrize(
    "text",
    [
        'id   ra     label\n007  10.5   1\n588017703996096547 ""  0\n"DES J0408-5354" 359.99   ""\n',
        '# id\tra label\n\n007 10.5 1\n588017703996096547  "" 0\n"DES J0408-5354"  359.99  ""  \n',
    ],
)
def test_blanks(tmp_path, text):
    assert "separated by blanks" in check(tmp_path / "t.dat", text)[0]


def test_comments_and_trailing_separators(tmp_path):
    lines = check(
        tmp_path / "t.csv",
        "# made by hand\nid,ra,label\n# units: none, deg, none\n007,10.5,1,\n588017703996096547,,0\n\n"
        "#lost,1,1\nDES J0408-5354,359.99,,,\n",
    )
    assert lines == [
        "t.csv: comments below the header, skipped: 2",
        "t.csv: rows with empty fields behind the last column, cut: 2",
    ]
    assert (
        check(
            tmp_path / "u.csv", "id,ra,label,\n007,10.5,1,\n588017703996096547,,0,\nDES J0408-5354,359.99,,\n"
        )
        == []
    )


def test_a_text_of_several_lines_and_a_comma_in_a_cell(tmp_path):
    found, _ = read(tmp_path / "t.csv", 'id,note\na,"x, y\nz"\nb,"#1"\n')
    assert found["note"].tolist() == ["x, y\nz", "#1"]


@pytest.mark.parametrize("number", ["1,2", "1,2,3,4"])
def test_a_row_with_other_fields_is_named(tmp_path, number):
    with pytest.raises(Mistake, match="row 2 has . fields, the header 3; it begins with '1'"):
        read(tmp_path / "t.csv", f"id,ra,label\n0,1,1\n{number}\n")


def test_one_column_may_have_blanks_in_its_cells(tmp_path):
    assert read(tmp_path / "t.csv", "id\nDES J0408-5354\nb\n")[0]["id"].tolist() == ["DES J0408-5354", "b"]
    found, lines = read(tmp_path / "u.csv", "object name,is it one\nDES J0408-5354,1\nSDSS J1,0\n")
    assert found.columns.tolist() == ["object name", "is it one"] and lines == []


@pytest.mark.parametrize("delimiter", [" ", ","])
def test_ecsv(tmp_path, delimiter):
    table = Table(
        {
            "id": IDS,
            "ra": MaskedColumn([10.5, 0, 359.99], mask=[0, 1, 0]),
            "label": MaskedColumn([1, 0, 7], mask=[0, 0, 1]),
            "sure": [True, False, True],
        }
    )
    table.write(tmp_path / "t.ecsv", delimiter=delimiter)
    check(tmp_path / "t.ecsv")
    assert read(tmp_path / "t.ecsv")[0]["sure"].tolist() == ["True", "False", "True"]


@pytest.mark.parametrize("kind", ["ipac", "mrt"])
def test_fixed_widths(tmp_path, kind):
    table = Table({"id": IDS, "ra": [10.5, 0.25, 359.99], "label": [1, 0, 0]})
    ascii_tables.write(table, tmp_path / "t.tbl", format=kind)
    found, lines = read(tmp_path / "t.tbl")
    assert found["id"].tolist() == IDS and found["label"].tolist() == ["1", "0", "0"]
    assert found["ra"].astype(float).tolist() == [10.5, 0.25, 359.99] and f"read as {kind}" in lines[0]


def test_sextractor(tmp_path):
    found, lines = read(
        tmp_path / "t.cat",
        "#   1 NUMBER      Running object number\n#   2 ALPHA_J2000 Right ascension   [deg]\n 07 10.5\n 08 "
        "3.25\n",
    )
    assert found["NUMBER"].tolist() == ["07", "08"] and found["ALPHA_J2000"].tolist() == ["10.5", "3.25"]


def test_votable(tmp_path):
    table = Table(
        {
            "id": IDS,
            "ra": MaskedColumn([10.5, 0, 359.99], mask=[0, 1, 0]),
            "label": MaskedColumn(np.array([1, 0, 7], dtype=np.int16), mask=[0, 0, 1]),
        }
    )
    for kind in ("tabledata", "binary2"):
        table.write(tmp_path / f"{kind}.xml", format="votable", tabledata_format=kind)
        check(tmp_path / f"{kind}.xml")


def test_fits_with_undefined_cells(tmp_path):
    """TNULL of plain, unsigned (TZERO) and scaled integers, against astropy's own masks."""
    columns = [
        fits.Column("id", "20A", array=np.array(IDS)),
        fits.Column("label", "I", null=-99, array=np.array([1, 0, -99], dtype=">i2")),
        fits.Column("count", "J", null=-5, bzero=2**31, array=np.array([1, 2, 2**31 - 5], dtype=np.uint32)),
        fits.Column("sure", "L", array=np.array([True, False, True])),
        fits.Column("pair", "2E", array=np.ones((3, 2))),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "t.fits")
    found, _ = read(tmp_path / "t.fits")
    assert found["id"].tolist() == IDS and found["label"].tolist() == LABEL
    assert found["count"].tolist() == ["1", "2", ""] and found["sure"].tolist() == ["True", "False", "True"]
    assert "pair" not in found
    fits.BinTableHDU.from_columns(columns[:2]).writeto(tmp_path / "u.fits")
    assert Table.read(tmp_path / "u.fits")["label"].mask.tolist() == [False, False, True]
    scaled = fits.Column("x", "I", null=7, bscale=0.5, bzero=10.0)
    assert null_cells(scaled, np.array([13.5, 7.0])).tolist() == [True, False]


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "it is empty"),
        (b"# a\n# b\n", "comments alone"),
        (b"id,id\n1,2\n", "column 'id' is there twice"),
        (b"id,ra\n", "has no rows"),
        (b"\x00\x01\x02", "not a text"),
        (b"\xff\xfei\x00", "cannot be read as a table"),
        (b"<?xml version='1.0'?><html></html>", "not a whole votable table"),
        (b"Title: a\nnothing more", "not a whole mrt table"),
    ],
)
def test_what_is_no_table(tmp_path, content, words):
    with pytest.raises(Mistake, match=words) as told:
        read(tmp_path / "t.csv", content)
    assert "\n" not in str(told.value)


def test_labels_as_people_spell_them():
    spelled = {
        1: ["1", "1.0", "1.00", "+1", "1e0", "True", "T", "yes", "Lens", "01"],
        0: ["0", "0.000", "FALSE", "no", "NonLens", "non-lens", "not a lens", "-0"],
        -1: ["", "-1", "-1.00", "nan", "NaN", "None", "--", "N/A", "-99", "-999.0", "99"],
    }
    for value, texts in spelled.items():
        found, lines = label_values(pd.Series(texts, dtype="str"), "--table")
        assert found.tolist() == [value] * len(texts)
        assert lines == (["labels taken for unknown: 3 (-99, -999.0, 99)"] if value < 0 else [])


@pytest.mark.parametrize("text", ["2", "0.5", "maybe", "inf", "10"])
def test_labels_that_cannot_be(text):
    with pytest.raises(Mistake, match=f"label '{text}' in row 2, expected 1"):
        label_values(pd.Series(["1", text], dtype="str"), "--table")
