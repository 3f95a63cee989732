"""Labels of curves: text as it stands, by whichever column names the curves; what was taken is said."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from tasks.light_curve.labels import read_labels
from utils.mistake import Mistake

SOURCES = ["a", "b", "c", "d"]


@pytest.fixture
def labels_of(tmp_path):
    curves = pd.DataFrame(dict(source=SOURCES, path=[str(tmp_path / f"{name}.fits") for name in SOURCES]))

    def labels_of(content: str, column: str = ""):
        path = tmp_path / "meta.csv"
        path.write_text(content)
        found = read_labels(f"{path}{column}", SimpleNamespace(curves=curves))
        return found.of_curve.tolist(), "\n".join(found.lines)

    return labels_of


def test_words_for_nothing_are_classes_and_only_an_empty_field_is_none(labels_of):
    labels, said = labels_of("source,class\na,None\nb,NA\nc,nan\nd,\n")
    assert labels == ["None", "NA", "nan", ""] and "3 of 4 curves have a label" in said


def test_the_column_that_is_taken_and_those_that_could_be_are_named(labels_of, tmp_path):
    content = "source,kind,field,flux\na,x,f1,1\nb,y,f1,2\nc,x,f2,3\nstranger,x,f2,4\n"
    labels, said = labels_of(content)
    assert labels == ["1", "2", "3", ""]  # the last, for want of a better name
    assert "labels are of column 'flux', by 'source'; it could be kind, field" in said
    assert "1 names match no curve (stranger)" in said
    assert labels_of(content, ":kind")[0] == ["x", "y", "x", ""]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_as_people_write_them(labels_of, separator):
    """Comments on top, a byte-order mark, blanks, another name for the source."""
    lines = ["\ufeff# from a catalogue", "detection, type ", "a , nova", " b, star,"]
    labels, said = labels_of("\n".join(lines).replace(",", separator) + "\n")
    assert labels == ["nova", "star", "", ""] and "by 'detection'" in said


def test_paths_may_be_relative_to_the_table(labels_of):
    assert labels_of("path,label\n./a.fits,x\nb.fits,y\n")[0] == ["x", "y", "", ""]


def test_two_labels_of_one_source_are_none_and_said(labels_of):
    labels, said = labels_of("source,label\na,x\na,y\nb,x\nb,x\n")
    assert labels == ["", "x", "", ""] and "1 names have rows of different labels" in said


def test_what_is_missing_is_one_line(labels_of):
    for content, column, message in (
        ("source,label\n", "", "none of its 0 values of 'source'"),
        ("source,label\nz,x\n", "", "such as 'z'\\) is among the curves \\(such as 'a'\\)"),
        ("source\na\n", "", "no column of labels beside 'source'"),
        ("source,label\na,x\n", ":kind", "no column 'kind'; it has source, label"),
    ):
        with pytest.raises(Mistake, match=message):
            labels_of(content, column)


def test_a_colon_in_a_path_is_no_column(tmp_path):
    folder = tmp_path / "of:2024"
    folder.mkdir()
    (folder / "meta.csv").write_text("source,label\na,x\n")
    curves = pd.DataFrame(dict(source=["a"], path=["a.fits"]))
    assert read_labels(str(Path(folder) / "meta.csv"), SimpleNamespace(curves=curves)).of_curve.tolist() == [
        "x"
    ]
