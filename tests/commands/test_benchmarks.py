"""The table of measured figures, the script that fills it, and the scripts that measure, in a small size."""

import importlib
import json
import re
import signal
import sys

import pytest

from tests.conftest import ROOT

from utils import config
from utils.mistake import Mistake

# scripts there import each other as they do when run
sys.path += [str(ROOT / "benchmarks" / hall) for hall in ("", "lens", "light_curves")]

import run  # noqa: E402
from table import Row, markdown, read, show  # noqa: E402

PEERS = ("fitsio", "light_curve", "lightning", "litdata", "streaming", "webdataset")
INFINITE = float("inf")


@pytest.mark.parametrize(
    "unit, ours, theirs, ratio",
    [
        ("ms", 2.0, 5.0, 2.5),
        ("files/s", 5.0, 2.0, 2.5),
        ("us", 4.0, 2.0, 0.5),
        ("MiB", 0.0, 2.0, INFINITE),
        ("samples/s", 2.0, 0.0, INFINITE),
        ("ms", 2.0, None, None),
        ("ms", None, 2.0, None),
    ],
)
def test_ratio_is_how_many_times_better(unit, ours, theirs, ratio):
    assert Row("", unit, ours, "", theirs).ratio == ratio


@pytest.mark.parametrize(
    "unit, ours, theirs, aim, limit, verdict",
    [
        ("ms", 2.0, 5.0, None, None, ""),
        ("ms", 2.0, 5.0, 2.5, None, "met"),
        ("ms", 2.0, 4.9, 2.5, None, "missed"),
        ("files/s", 5.0, 2.0, 2.5, None, "met"),
        ("s", 1.0, None, None, 1.0, "met"),
        ("s", 1.1, None, None, 1.0, "missed"),
        ("runs", 0, None, None, 0, "met"),
        ("runs", 1, None, None, 0, "missed"),
        ("cutouts/s", 1.1, None, None, 1.0, "met"),
        ("cutouts/s", 0.9, None, None, 1.0, "missed"),
        ("us", 100.0, 900.0, 10, 150, "missed"),
        ("us", 160.0, 1600.0, 10, 150, "missed"),
        ("us", 90.0, 900.0, 10, 150, "met"),
        ("ms", 2.0, None, 2.5, None, "not measured"),
        ("ms", None, 5.0, 2.5, None, "not measured"),
        ("ms", None, None, None, None, "not measured"),
    ],
)
def test_verdict(unit, ours, theirs, aim, limit, verdict):
    assert Row("", unit, ours, "", theirs, aim, limit).verdict == verdict


def test_rows_as_text_and_through_a_file(tmp_path, capsys):
    rows = [
        Row("forward", "ms", 36.84, "timm 1", 181.9, aim=3, limit=1234.5, equal="to the bit"),
        Row("on a GPU", "images/s", None, aim=2),
    ]
    assert markdown(rows).splitlines()[2:] == [
        "| forward | ms | 36.8 | timm 1 | 182 | x4.94 | x3 1,234 | met | to the bit |",
        "| on a GPU | images/s |  |  |  |  | x2 | not measured |  |",
    ]
    show(rows, str(tmp_path / "rows.json"))
    assert capsys.readouterr().out == markdown(rows) + "\n" and read(tmp_path / "rows.json") == rows


@pytest.mark.parametrize("name", [*run.SHORT, *run.LONG])
def test_every_script_speaks_in_rows(monkeypatch, name):
    for peer in PEERS:
        monkeypatch.setitem(sys.modules, peer, None)  # as where it is not installed
    monkeypatch.delitem(sys.modules, name, raising=False)
    script = importlib.import_module(name)
    assert callable(script.main)
    if name not in run.OWN_TABLES:
        assert callable(script.measure) and config.fields_of(script.Config)["json"].default == ""


def test_a_missing_peer_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lightning", None)
    assert importlib.import_module("loop_overhead").lightning_version() == ""
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "pip install -r requirements-benchmarks.txt" in said


SMALL = dict(  # the least that each can measure
    convnext_speed="--sizes atto --batch 4 --repeats 1 --no_compiled",
    train_step="--steps 3 --batch 4",
    loop_overhead="--steps 150 --rounds 1",
    resume_latency="--examples 1000000 --rounds 2",
    gru_speed="--repeats 1",
    fits_speed="--files 8 --repeats 1",
    shuffled_reads="--samples 512 --turns 1",
    preprocess_speed="--batch 8 --repeats 1",
    predict_speed="--files 20 --packed 0 --turns 1",
    checkpoint_stall="--saves 3",
    gpu_speed="--no_compiled --ensemble_seeds 1",
    growth="--sizes 200",
)
EQUAL = dict(
    convnext_speed="within 2e-06",
    train_step=r"differ by at most \S+e-0[67]",
    gru_speed=r"differ by \S+e-0[678]",
    preprocess_speed=r"differ by at most \S+e-0[67]",
    resume_latency="as the order says",
    checkpoint_stall="the same bits",
)


@pytest.mark.parametrize("name", SMALL)
def test_each_script_measures_in_a_small_size(name, tmp_path):
    """A peer that changes under a benchmark is noticed here and not when the figures are asked for."""
    importlib.import_module(name).main([*SMALL[name].split(), "--json", str(tmp_path / "rows.json")])
    rows = read(tmp_path / "rows.json")
    assert all(row.ours is None or row.ours == row.ours for row in rows) and len(rows) > 0
    if name in EQUAL:
        assert re.search(EQUAL[name], rows[0].equal), rows[0].equal


FRESH = (
    "# Figures\n\nhead\n\n<!-- benchmarks/run.py begins -->\n<!-- benchmarks/run.py ends -->\n\n"
    "## Other\n\n### gru_speed\n\nby hand\n"
)


def test_sections_replace_those_of_their_name():
    def body(figure, when):
        return f"`python benchmarks/x.py`, run of {when}\n\n{figure}"

    first, second = "2026-11-21 10:00 UTC", "2026-11-22 10:00 UTC"
    both = run.splice(
        FRESH, {"gru_speed": body("A", first), "train_step": body("B", first)}, first, "a machine"
    )
    assert both == FRESH.replace(
        "begins -->\n",
        f"begins -->\n\n- {first}: a machine\n\n### train_step\n\n{body('B', first)}\n\n"
        f"### gru_speed\n\n{body('A', first)}\n\n",
    )
    one = run.splice(both, {"gru_speed": body("C", second)}, second, "another")
    assert one == both.replace(body("A", first), body("C", second)).replace(
        "a machine\n", f"a machine\n- {second}: another\n"
    )
    # no figure is of that run
    assert run.splice(one, {"train_step": body("D", second)}, second, "another").count("a machine") == 0
    with pytest.raises(Mistake, match="begins"):
        run.splice("# Figures\n", {}, first, "")


@pytest.fixture
def scripts(monkeypatch, tmp_path):
    """Scripts that end well, fail, or interrupt who started them, in place of those that measure."""
    row = dict(what="w", unit="ms", ours=2.0, peer="p", theirs=5.0, aim=2.0, limit=None, equal="e")
    begin = "import sys, pathlib\nprint('detail', *sys.argv[1:-2], flush=True)\n"
    write = f"pathlib.Path(sys.argv[-1]).write_text({json.dumps([row])!r})\n"
    for name, content in dict(
        fits_speed=begin + write,
        train_step=begin + write + "raise ValueError('no such thing')\n",
        lens_auc="print('a table')\n",
        growth="import os, signal, time\nos.kill(os.getppid(), signal.SIGINT)\ntime.sleep(1)\n",
    ).items():
        (tmp_path / f"{name}.py").write_text(content)
    monkeypatch.setattr(run, "SCRIPTS", tmp_path)
    monkeypatch.setattr("os.getloadavg", lambda: (0.6, 0.0, 0.0))
    (tmp_path / "R.md").write_text(FRESH)
    # a test before may have trained, and left its own
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield tmp_path / "R.md"
    signal.signal(signal.SIGINT, before)


def test_run_collects_rows_and_names_what_failed(scripts, capsys):
    run.main(["--results", str(scripts), "--only", "lens_auc", "fits_speed --files 3"])
    text, said = scripts.read_text(), capsys.readouterr()
    assert "the machine is busy (load average 0.60)" in said.err and "detail --files 3\n" in said.out
    assert (
        "`python benchmarks/fits_speed.py --files 3`" in text
        and "| w | ms | 2 | p | 5 | x2.5 | x2 | met | e |" in text
    )
    assert "```\na table\n```" in text and "load 0.60 at the start; Python 3" in text and "by hand" in text
    with pytest.raises(SystemExit, match="1"):
        run.main(["--results", str(scripts), "--only", "train_step"])
    text = scripts.read_text()
    assert (
        "**Failed**, exit code 1: `ValueError: no such thing`\n\n| what" in text
        and "```\na table\n```" in text
    )
    run.main(["--results", str(scripts), "--only", "lens_auc --seed 1", "lens_auc --seed 2"])
    text = scripts.read_text()
    assert (
        text.count("a table") == 2
        and text.count("### lens_auc") == 1
        and "lens_auc.py --seed 1`" in text
        and "lens_auc.py --seed 2`" in text
    )
    with pytest.raises(Mistake, match="fits_speed"):
        run.main(["--only", "fits_sped"])


def test_an_interrupted_run_leaves_the_results(scripts):
    with pytest.raises(KeyboardInterrupt):
        run.main(["--results", str(scripts), "--only", "fits_speed", "growth"])
    assert scripts.read_text() == FRESH
