"""data/formats.py: the page of formats is what the readers say of themselves, whole and in one order."""

import ast

from data.formats import Format, _line, formats_of_readers, formats_page
from tests.conftest import ROOT, files_of_the_project

PAGE = ROOT / "docs" / "formats.md"


def test_the_page_is_what_the_readers_say():
    assert PAGE.read_text() == formats_page(), (
        "a reader's FORMATS and docs/formats.md differ: run `python -m data.formats > docs/formats.md`"
    )


def test_every_list_of_formats_is_on_the_page():
    """Found in the source text, so that a module which the walk does not reach is missed here."""
    listed = {
        file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        for file in files_of_the_project("py")
        if file.is_relative_to(ROOT / "data")
        for node in ast.parse(file.read_text()).body
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and "FORMATS" in ast.unparse(node).split("=")[0]
    }
    found = dict(formats_of_readers())
    assert found.keys() == listed and len(listed) > 5
    assert list(found) == sorted(found)


def test_every_row_says_all_it_has_to():
    names = []
    for module, rows in formats_of_readers():
        for row in rows:
            assert isinstance(row, Format), f"{module}: expected Format(name, known_by, taken, refused)"
            assert all(isinstance(cell, str) and cell.strip() for cell in row), f"{module}: {row}"
            names.append(row.name)
    assert len(set(names)) == len(names), "two readers call their format the same"


def test_no_cell_is_markdown():
    assert _line(["<object>_g *.tar", "a|b `<c>|*d`"]) == r"| \<object>_g \*.tar | a\|b `<c>\|*d` |"


def test_the_readme_leads_to_the_page():
    assert "docs/formats.md" in (ROOT / "README.md").read_text()
