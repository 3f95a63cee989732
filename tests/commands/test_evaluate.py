"""evaluate.py on predict's own output, on NPY files, and on what people get wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

import evaluate
from evaluation import predictions, scores
from tests.conftest import ROOT
from utils.mistake import Mistake

HEADER = "path,domain,label,prob,pred\n"


@pytest.fixture
def table() -> pd.DataFrame:
    """200 objects of two domains in five bands, one file quarantined, one unlabelled."""
    random = np.random.default_rng(0)
    label, domain = np.arange(200) % 2, np.where(np.arange(200) % 4 < 2, "hsc", "slsim")
    prob = 1 / (1 + np.exp(-random.normal(1.2 * (2 * label - 1)[:, None], 1.5, (200, 5)))).astype(np.float32)
    out = pd.DataFrame(
        dict(
            path=[f"/d/D1_{i:04d}_{band}.fits" for i in range(200) for band in "grizy"],
            domain=np.repeat(domain, 5),
            label=pd.array(np.repeat(label, 5), "Int8"),
            prob=prob.ravel(),
        )
    )
    out.loc[3, "prob"] = np.nan
    out.loc[7, "label"] = pd.NA
    return out.assign(pred=(out["prob"] >= 0.5).astype("Int8").mask(out["prob"].isna()))


def written(table: pd.DataFrame, path: Path) -> str:
    table.to_csv(path, index=False)
    return str(path)


def run(*argv) -> dict:
    """main() with these arguments, and the metrics it wrote."""
    argv = [str(word) for word in argv]
    evaluate.main(argv + ["--bootstrap", "50"] * ("--bootstrap" not in argv))
    return json.loads(
        (
            Path(argv[argv.index("--out_dir") + 1]) / f"metrics_{argv[argv.index('--tag') + 1]}.json"
        ).read_text()
    )


@pytest.mark.parametrize("suffix", ["", ".0"])
def test_reads_what_predict_writes(table, tmp_path, capsys, suffix):
    """Labels 1 or 1.0; quarantined and unlabelled rows are counted and left out."""
    table["label"] = table["label"].astype("str").replace("<NA>", "") + suffix
    table.loc[7, "label"] = ""
    metric = run(
        "--tag",
        "val",
        "--from_csv",
        "--csv",
        written(table, tmp_path / "p.csv"),
        "--per_domain",
        "--out_dir",
        tmp_path,
    )
    good = table[table["prob"].notna() & (table["label"] != "")]
    label = good["label"].astype(float)
    assert list(metric) == ["global", "domain::hsc", "domain::slsim", "about"]
    assert metric["global"]["n"] == 998 == metric["domain::hsc"]["n"] + metric["domain::slsim"]["n"]
    assert metric["global"]["roc_auc"] == pytest.approx(metrics.roc_auc_score(label, good["prob"]), abs=1e-12)
    hsc = good["domain"] == "hsc"
    assert metric["domain::hsc"]["pr_auc"] == pytest.approx(
        metrics.average_precision_score(label[hsc], good["prob"][hsc]), abs=1e-12
    )
    assert metric["global"]["roc_auc_low"] < metric["global"]["roc_auc"] < metric["global"]["roc_auc_high"]
    said = capsys.readouterr().out
    assert "1000 rows: 1 without a label and 1 without a probability" in said and "domain::slsim" in said
    flat = pd.read_csv(tmp_path / "metrics_val.csv")
    assert list(flat) == ["scope", "metric", "value"]
    for row in flat[flat["scope"] != "about"].itertuples():
        assert metric[row.scope][row.metric] == row.value  # to the last digit


def test_arrays_give_what_the_table_gives(table, tmp_path, capsys):
    csv = run(
        "--tag", "a", "--csv", written(table, tmp_path / "p.csv"), "--out_dir", tmp_path, "--bootstrap", 0
    )
    arrays = dict(
        labels=table["label"].to_numpy(np.float32, na_value=np.nan),
        probs=table["prob"].to_numpy(np.float32),
        preds=np.where(table["prob"].isna(), -1, table["prob"] >= 0.25).astype(np.int8),
    )
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    npy = run(
        "--tag",
        "b",
        "--from_npy",
        "--labels",
        tmp_path / "labels.npy",
        "--probs",
        tmp_path / "probs.npy",
        "--preds",
        tmp_path / "preds.npy",
        "--out_dir",
        tmp_path,
        "--bootstrap",
        0,
    )
    assert {name: pytest.approx(value, abs=1e-7) for name, value in npy["global"].items()} == csv["global"]
    assert "--preds differ from prob >= 0.5" in capsys.readouterr().out


def test_by_object_takes_the_mean_of_the_bands(table, tmp_path):
    path = written(table, tmp_path / "p.csv")
    metric = run("--tag", "o", "--csv", path, "--by_object", "--out_dir", tmp_path)
    table["object"] = table["path"].str.slice(0, -7)
    good = table[table["label"].notna()]
    fused = good.groupby("object").agg(label=("label", "first"), prob=("prob", "mean"))
    assert metric["about"]["level"] == "object" and metric["global"]["n"] == 200
    assert metric["global"]["roc_auc"] == pytest.approx(
        metrics.roc_auc_score(fused["label"].astype(int), fused["prob"]), abs=2e-4
    )
    whole = run("--tag", "f", "--csv", path, "--out_dir", tmp_path, "--bootstrap", 200)["global"]
    alone = scores.score_table(predictions.read_predictions(path), 0.5, False, 200, 42)["global"]
    assert whole["accuracy_high"] - whole["accuracy_low"] != alone["accuracy_high"] - alone["accuracy_low"]


def test_threshold_from_a_file_or_found_here(table, tmp_path, capsys):
    path = written(table, tmp_path / "p.csv")
    best = run("--tag", "best", "--csv", path, "--optimize-threshold", "--out_dir", tmp_path)["global"]
    assert "Youden's J" in capsys.readouterr().out
    (tmp_path / "threshold.txt").write_text(repr(best["threshold"]) + "\n")
    again = run(
        "--tag", "again", "--csv", path, "--threshold_file", tmp_path / "threshold.txt", "--out_dir", tmp_path
    )["global"]
    assert again == best
    called = predictions.read_predictions(path).dropna()
    fpr, tpr, _ = metrics.roc_curve(called["label"], called["prob"])
    assert best["recall"] + best["specificity"] - 1 == pytest.approx((tpr - fpr).max(), abs=1e-12)


def test_plots_come_with_their_numbers(table, tmp_path):
    run(
        "--tag",
        "v",
        "--csv",
        written(table, tmp_path / "p.csv"),
        "--per_domain",
        "--plot",
        "--out_dir",
        tmp_path / "out",
    )
    names = {path.name for path in (tmp_path / "out").iterdir()}
    for figure in (
        "roc",
        "precision_recall",
        "reliability",
        "score_histogram",
        "confusion",
        "purity_completeness",
    ):
        assert {f"{figure}_v.png", f"{figure}_v.pdf"} <= names
    for numbers in ("curves", "reliability", "score_histogram", "confusion"):
        assert len(pd.read_csv(tmp_path / "out" / f"{numbers}_v.csv"))
    assert not [name for name in names if name.startswith(".")]


@pytest.mark.parametrize("by_object", [False, True])
def test_calibration_on_another_table(table, tmp_path, capsys, by_object):
    """Too sure by a factor of three; fitted on half of the objects, judged on the rest."""
    p = table["prob"].clip(1e-6, 1 - 1e-6)
    table["prob"] = 1 / (1 + ((1 - p) / p) ** 3)
    val, test = (
        written(table.iloc[:500], tmp_path / "val.csv"),
        written(table.iloc[500:], tmp_path / "test.csv"),
    )
    level = ["--by_object"] * by_object
    before = run("--tag", "raw", "--csv", test, "--out_dir", tmp_path, *level)["global"]
    capsys.readouterr()
    metric = run(
        "--tag",
        "t",
        "--csv",
        test,
        "--calibrate",
        "temperature",
        "--calibrate_on",
        val,
        "--plot",
        "--out_dir",
        tmp_path,
        *level,
    )
    after, said = metric["global"], capsys.readouterr().out
    assert (
        after["ece"] < 0.5 * before["ece"]
        and after["nll"] < before["nll"]
        and after["roc_auc"] == before["roc_auc"]
    )
    assert metric["about"]["calibration"]["kind"] == "temperature"
    assert (
        f"before        {before['ece']:.4f}        {before['adaptive_ece']:.4f}" in said
        and f"after         {after['ece']:.4f}" in said
    )
    assert set(pd.read_csv(tmp_path / "reliability_t.csv")["scope"]) == {"before calibration", "global"}
    run(
        "--tag", "same", "--csv", val, "--calibrate", "isotonic", "--calibrate_on", val, "--out_dir", tmp_path
    )
    assert "these very predictions: what is reported after it is optimistic" in capsys.readouterr().out


def test_one_class_is_judged_where_that_is_possible(table, tmp_path, capsys):
    path = written(table[table["label"] == 1], tmp_path / "p.csv")
    metric = run("--tag", "one", "--csv", path, "--plot", "--out_dir", tmp_path)["global"]
    assert metric["roc_auc"] is None and metric["tpr0"] is None and metric["recall"] > 0
    assert "no non-lens among the" in metric["undefined"] and metric["undefined"] in capsys.readouterr().out
    with pytest.raises(Mistake, match="499 lenses and 0 non-lenses"):
        run("--tag", "one", "--csv", path, "--optimize_threshold", "--out_dir", tmp_path)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is not a CSV table"),
        (HEADER, "holds no row"),
        ("path,label,prob\na,1,.5\n", "no column 'domain'"),
        (HEADER + "a,hsc,1,0.5,1\na,hsc,1,0.5,1\n", "names 'a' twice"),
        (HEADER + "a,hsc,1,1.5,1\n", "line 2 has prob '1.5'"),
        (HEADER + "a,hsc,1,.5,1\nb,hsc,2,.5,1\n", "line 3 has label '2'"),
        (HEADER + "a,hsc,lens,.5,1\n", "line 2 has label 'lens'"),
        (HEADER + "a,hsc,1,x,1\n", "line 2 has prob 'x'"),
        (HEADER + "a,hsc,1,inf,1\n", "line 2 has prob 'inf'"),
        (HEADER + "a,hsc,,.5,1\nb,hsc,1,,\n", "none of 2 rows has both"),
        (HEADER + "\xff,hsc,1,.5,1\n", "is not a CSV table"),
    ],
)
def test_a_table_that_cannot_be(tmp_path, text, message):
    (tmp_path / "p.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(Mistake, match=message):
        run("--tag", "x", "--csv", tmp_path / "p.csv", "--out_dir", tmp_path)
    assert not list(tmp_path.glob("metrics*"))


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "expected either --from_csv"),
        (["--from_csv"], "expected either --from_csv"),
        (["--csv", "no.csv"], "no file 'no.csv'"),
        (["--labels", "l.npy"], "expected either --from_csv"),
        (["--labels", "l.npy", "--probs", "p.npy"], "no file 'l.npy'"),
        (["--labels", "l.npy", "--probs", "p.npy", "--by_object"], "lack"),
        (["--csv", "P", "--tag", "a/b"], "--tag 'a/b'"),
        (
            ["--csv", "P", "--threshold", ".5", "--optimize_threshold"],
            "--threshold and --optimize_threshold: give one",
        ),
        (["--csv", "P", "--threshold_file", "P"], "expected a file that holds one number"),
        (["--csv", "P", "--calibrate", "vector"], "expected both, a kind and the table"),
        (["--csv", "P", "--calibrate_on", "P"], "expected both, a kind"),
    ],
)
def test_flags_that_cannot_be(table, tmp_path, flags, message):
    path = written(table, tmp_path / "p.csv")
    with pytest.raises(Mistake, match=message):
        evaluate.main([path if word == "P" else word for word in flags] + ["--out_dir", str(tmp_path)])


def foreign(table, path, separator, **columns):
    """As another code writes it: an object a row, percents, labels as words."""
    objects = table.iloc[::5].dropna().reset_index(drop=True)
    out = pd.DataFrame(
        dict(
            SourceName="DES J" + objects["path"].str[6:10] + "-5354_g",
            P=100 * objects["prob"],
            truth=objects["label"].map({1: "True", 0: "False"}),
            seeing=0.8,
        )
    )
    out.to_csv(path, sep=separator, index=False)
    return objects


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_of_other_codes(table, tmp_path, capsys, separator):
    objects = foreign(table, tmp_path / "cnn.txt", separator)
    flags = ["--tag", "cnn", "--out_dir", tmp_path, "--csv", tmp_path / "cnn.txt", "--scale", "100"]
    found = run(*flags, "--columns", "id=SourceName", "prob=P")["global"]
    label = objects["label"].astype(int)
    assert found["roc_auc"] == pytest.approx(metrics.roc_auc_score(label, objects["prob"]), abs=1e-12)
    assert found["n"] == len(objects) and "domain" not in found
    told = capsys.readouterr()
    assert "id is column SourceName, prob is column P, label is column truth" in told.err
    assert "columns not used: seeing" in told.err and "far below" not in told.err
    assert "rows of one object" not in told.out  # nothing is cut off an id that ends like a band


def test_rows_of_one_id_in_a_table_of_another_code(table, tmp_path, capsys):
    foreign(table, tmp_path / "a.csv", ",")
    rows = pd.read_csv(tmp_path / "a.csv")
    pd.concat([rows, rows.assign(P=rows["P"] / 2)]).to_csv(tmp_path / "b.csv", index=False)
    flags = ["--tag", "b", "--out_dir", tmp_path, "--csv", tmp_path / "b.csv", "--scale", "100"]
    flags += ["--columns", "id=SourceName", "prob=P", "--by_object"]
    assert run(*flags)["global"]["n"] == len(rows)
    assert f"{2 * len(rows)} rows fused to {len(rows)} objects" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, message",
    [
        (["prob=P"], "row 1 has P .*, expected 0 to 1; of percents --scale 100"),
        (["prob=q"], "--columns prob=q: .* has no such column, it has SourceName, P, truth, seeing"),
        (["id=SourceName"], "has no column prob, it has SourceName, P.*: expected --columns prob=NAME"),
        (["prob=P", "colour=seeing"], "--columns colour=...: expected some of id, prob, label, domain"),
        (["prob"], "--columns 'prob': expected id=NAME"),
        (["prob=P", "label=seeing"], "label '0.8' in row 1"),
    ],
)
def test_tables_of_other_codes_that_cannot_be(table, tmp_path, flags, message):
    foreign(table, tmp_path / "cnn.csv", ",")
    scale = ["--scale", "100"] * ("label=seeing" in flags)
    with pytest.raises(Mistake, match=message) as told:
        run("--tag", "x", "--out_dir", tmp_path, "--csv", tmp_path / "cnn.csv", *scale, "--columns", *flags)
    assert "\n" not in str(told.value)


def test_probabilities_of_the_other_class_are_remarked(table, tmp_path, capsys):
    path = written(table.assign(prob=1 - table["prob"]), tmp_path / "p.csv")
    run("--tag", "x", "--out_dir", tmp_path, "--csv", path)
    assert "warning: global: AUC 0." in (told := capsys.readouterr().err) and "far below 0.5" in told


def test_hostile_arrays_are_refused(tmp_path):
    np.save(tmp_path / "object.npy", np.array([{}, 1], dtype=object), allow_pickle=True)
    np.save(tmp_path / "square.npy", np.zeros((2, 2)))
    np.save(tmp_path / "two.npy", np.array([0.0, 1.0]))
    np.save(tmp_path / "three.npy", np.array([0.0, 1.0, 0.5]))
    (tmp_path / "text.npy").write_text("hello")
    for name in ("object", "square", "text"):
        with pytest.raises(Mistake, match=name):
            predictions.array(str(tmp_path / f"{name}.npy"))
    with pytest.raises(Mistake, match="2 labels, .* 3 probabilities"):
        predictions.read_arrays(str(tmp_path / "two.npy"), str(tmp_path / "three.npy"))
    with pytest.raises(Mistake, match="labels other than"):
        predictions.read_arrays(str(tmp_path / "three.npy"), str(tmp_path / "three.npy"))


def test_numbers_are_read_to_the_last_digit(tmp_path):
    prob = np.random.default_rng(0).random(2000)
    table = pd.DataFrame(dict(path=[f"NA{i}" for i in range(2000)], domain="None", label=1.0, prob=prob))
    predictions.write_predictions(table, tmp_path / "p.csv", 0.5)
    again = predictions.read_predictions(str(tmp_path / "p.csv"))
    assert (again["prob"].to_numpy() == prob).all() and (again["domain"] == "None").all()


def test_the_script_ends_with_one_line(tmp_path):
    run_it = subprocess.run(
        [sys.executable, "evaluate.py", "--csv", "nothing.csv"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert (
        run_it.returncode == 2 and run_it.stderr.count("\n") == 1 and "no file 'nothing.csv'" in run_it.stderr
    )
