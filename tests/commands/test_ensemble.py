"""ensemble.py: members matched, combined, fused; t* from validation alone;
a submission that holds each id once.
"""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn import metrics

import ensemble
import evaluate
from evaluation import predictions, submission
from tests.conftest import ROOT
from utils.mistake import Mistake

SEEDS = ROOT.parent / "shared" / "seeds"


def member(
    path: Path, seed: int, objects: int = 60, blind: bool = False, folder: str = "/d", bands: str = "grizy"
) -> str:
    """Write one member's predictions of objects in some bands, and return its path."""
    random, i = np.random.default_rng(seed), np.arange(objects)
    label, domain = i % 2, np.where(i % 4 < 2, "hsc", "slsim")
    prob = expit(random.normal(1.0 * (2 * label - 1)[:, None], 1.5, (objects, len(bands)))).astype(np.float32)
    names = [f"object_{k:05d}" if blind else f"D1_{'NL'[label[k]]}_{k:08d}" for k in i]
    table = pd.DataFrame(
        dict(
            path=[
                f"{folder}/{name}_{band}.fits".replace("_.", ".") for name in names for band in bands or "-"
            ],
            domain="unknown" if blind else np.repeat(domain, len(bands)),
            prob=prob.ravel(),
        )
    )
    table["path"] = table["path"].str.replace("_-", "")
    table.insert(
        2, "label", pd.array([pd.NA] * len(table) if blind else np.repeat(label, len(bands)), "Int8")
    )
    table["pred"] = (table["prob"] >= 0.5).astype(int)
    table.to_csv(path, index=False)
    return str(path)


@pytest.fixture
def members(tmp_path) -> dict[str, list[str]]:
    return dict(
        val=[member(tmp_path / f"val_{k}.csv", k) for k in range(3)],
        test=[member(tmp_path / f"test_{k}.csv", 10 + k, 40, blind=True) for k in range(3)],
    )


def run(out: Path, *flags, val=(), test=()) -> Path:
    ensemble.main(
        [
            *(["--val", *val] if val else []),
            *(["--test", *test] if test else []),
            "--out_dir",
            str(out),
            "--bootstrap",
            "20",
            *map(str, flags),
        ]
    )
    return out


def change(file: str, /, **columns) -> None:
    """Rewrite a member with some columns changed: name=function of the table."""
    table = pd.read_csv(file, keep_default_na=False)
    for name, new in columns.items():
        table[name] = new(table)
    table.to_csv(file, index=False)


@pytest.mark.parametrize("how", ["mean", "logit", "median"])
def test_files_objects_threshold_and_submission(members, tmp_path, how):
    out = run(tmp_path / "out", "--combine", how, **members)
    parts = [pd.read_csv(path) for path in members["val"]]
    probs = np.stack([part["prob"] for part in parts])
    expected = dict(mean=probs.mean(0), logit=expit(logit(probs).mean(0)), median=np.median(probs, 0))[how]
    val = pd.read_csv(out / "val_ens.csv")
    assert (
        list(val) == ["path", "domain", "label", "prob", "pred"] and (val["path"] == parts[0]["path"]).all()
    )
    np.testing.assert_allclose(val["prob"], expected, rtol=1e-12)

    objects = pd.read_csv(out / "val_ens_objects.csv")
    bands = val["prob"].to_numpy().reshape(-1, 5)
    np.testing.assert_allclose(
        objects["prob"], expit(logit(bands).mean(1)) if how == "logit" else bands.mean(1), rtol=1e-12
    )
    assert list(objects["object"]) == list(val["path"].str.extract(r"/d/(.*)_.\.fits")[0].unique())

    threshold = float((out / "threshold.txt").read_text())
    sheet = json.loads((out / "metrics_val_ens.json").read_text())
    assert sheet["global"]["threshold"] == threshold == sheet["domain::hsc"]["threshold"]
    fpr, tpr, _ = metrics.roc_curve(objects["label"], objects["prob"])
    assert sheet["global"]["recall"] + sheet["global"]["specificity"] - 1 == pytest.approx(
        (tpr - fpr).max(), abs=1e-12
    )

    sent = pd.read_csv(out / "submission.csv")
    blind = pd.read_csv(out / "test_ens_objects.csv")
    assert list(sent["id"]) == list(blind["object"]) == [f"object_{k:05d}" for k in range(40)]
    assert (sent["preds"] == (blind["prob"] >= threshold)).all() and (blind["pred"] == sent["preds"]).all()
    assert (sent.iloc[:, 2:] == -99).all(axis=None)
    assert not (out / "test_ens_labeled.csv").exists() and not (out / "metrics_test_ens.json").exists()
    for table in (val, objects):
        assert (table["pred"] == (table["prob"] >= threshold)).all()
    assert not list(out.glob(".*"))


def test_the_header_is_the_requests_and_the_challenges(members, tmp_path):
    out = run(tmp_path / "out", **members)
    header, first, *_ = (out / "submission.csv").read_text().splitlines()
    assert len(header.split(",")) == 32 and re.fullmatch(r"object_00000,[01]" + ",-99" * 30, first)
    assert len(set(submission.OFFICIAL.split(","))) == 41
    for request in SEEDS.glob("001_*.txt"):
        assert f"\n{header}\n" in request.read_text()
    out = run(out, "--columns", "official", "--fill", "-999", **members)
    header, first, *_ = (out / "submission.csv").read_text().splitlines()
    assert header == submission.OFFICIAL and re.fullmatch(r"object_00000,[01]" + ",-999" * 39, first)
    out = run(out, "--columns", "short", "--submit", "prob", "--submission", "prob.csv", **members)
    sent = pd.read_csv(out / "prob.csv")
    assert list(sent) == ["id", "prob"]
    assert (sent["prob"] == pd.read_csv(out / "test_ens_objects.csv")["prob"]).all()


def test_evaluate_agrees_with_the_score_sheet(members, tmp_path):
    """The objects' table, and the files' table fused, give the figures that ensemble wrote."""
    out = run(
        tmp_path / "out", val=members["val"], test=[member(tmp_path / "labelled.csv", 7, 40, folder="/e")]
    )
    for name, tables in (
        ("val_ens", ["val_ens_objects", "val_ens"]),
        ("test_ens", ["test_ens_objects", "test_ens_labeled"]),
    ):
        for table in tables:
            evaluate.main(
                [
                    "--tag",
                    "again",
                    "--csv",
                    str(out / f"{table}.csv"),
                    "--by_object",
                    "--threshold_file",
                    str(out / "threshold.txt"),
                    "--per_domain",
                    "--bootstrap",
                    "20",
                    "--out_dir",
                    str(out),
                ]
            )
            ours, theirs = (json.loads((out / f"metrics_{tag}.json").read_text()) for tag in (name, "again"))
            for scope in ("global", "domain::hsc", "domain::slsim"):
                assert theirs[scope] == {
                    key: pytest.approx(value, abs=1e-12) for key, value in ours[scope].items()
                }


def test_t_star_does_not_see_the_test_set(members, tmp_path):
    labelled = member(tmp_path / "labelled.csv", 7, 40, folder="/e")
    one = run(tmp_path / "one", val=members["val"], test=[labelled])
    change(labelled, label=lambda table: 1 - table["label"])
    two = run(tmp_path / "two", val=members["val"], test=[labelled])
    three = run(tmp_path / "three", val=members["val"])
    assert len({(out / "threshold.txt").read_text() for out in (one, two, three)}) == 1
    assert (one / "submission.csv").read_text() == (two / "submission.csv").read_text()
    assert not (three / "submission.csv").exists()


def test_an_earlier_threshold(members, tmp_path):
    both = run(tmp_path / "both", **members)
    later = run(tmp_path / "later", "--threshold_file", both / "threshold.txt", test=members["test"])
    assert (both / "submission.csv").read_text() == (later / "submission.csv").read_text()
    assert not (later / "threshold.txt").exists() and not (later / "val_ens.csv").exists()


def test_members_in_another_order_and_from_another_machine(members, tmp_path, capsys):
    before = run(tmp_path / "before", val=members["val"])
    moved = pd.read_csv(members["val"][1]).sample(frac=1, random_state=0)
    moved["path"] = moved["path"].str.replace("/d/", "/scratch/elsewhere/")
    moved.to_csv(members["val"][1], index=False)
    after = run(tmp_path / "after", val=members["val"])
    assert "files are matched by name" in capsys.readouterr().out
    assert (before / "val_ens.csv").read_text() == (after / "val_ens.csv").read_text()
    with pytest.raises(
        Mistake,
        match=r"lacks 300 of the files .*\(by path\): /d/D1_N_00000000_g.fits, .*_r.fits, .*_i.fits; predict",
    ):
        run(tmp_path / "path", "--match", "path", val=members["val"])


def test_members_that_do_not_fit(members, tmp_path):
    first, second, third = members["val"]
    for how in ("auto", "path", "name"):
        pd.read_csv(second).iloc[4:].to_csv(tmp_path / "less.csv", index=False)
        with pytest.raises(
            Mistake, match=r"less.csv: lacks 4 of the files .*: .*_g.fits, .*_r.fits, .*_i.fits; predict"
        ):
            run(tmp_path / "out", "--match", how, val=[first, str(tmp_path / "less.csv")])
        with pytest.raises(Mistake, match=r"less.csv: lacks 4 of the files"):
            run(tmp_path / "out", "--match", how, val=[str(tmp_path / "less.csv"), first])
    with pytest.raises(Mistake, match="a member is given twice"):
        run(tmp_path / "out", val=[first, first])
    pd.concat([pd.read_csv(third)] * 2).to_csv(tmp_path / "twice.csv", index=False)
    with pytest.raises(Mistake, match="twice.csv: names .* twice"):
        run(tmp_path / "out", val=[first, str(tmp_path / "twice.csv")])
    change(second, label=lambda table: table["label"].where(table.index != 6, 0))
    with pytest.raises(Mistake, match="label of .*00000001_r.fits' is 0.0, in .*val_0.csv 1.0"):
        run(tmp_path / "out", val=[first, second])
    change(third, domain=lambda table: "hsc")
    with pytest.raises(Mistake, match="domain of .* is hsc, in .* slsim"):
        run(tmp_path / "out", val=[first, third])
    assert not (tmp_path / "out").exists()


def test_names_that_are_not_unique_need_paths(tmp_path):
    both = []
    for k, folder in enumerate(("/one", "/two")):
        a = pd.read_csv(member(tmp_path / "a.csv", k, folder=f"{folder}/x"))
        b = pd.read_csv(member(tmp_path / "b.csv", k + 5, folder=f"{folder}/y"))
        both.append(str(tmp_path / f"m{k}.csv"))
        pd.concat([a, b]).to_csv(both[-1], index=False)
    with pytest.raises(Mistake, match="two files are named .* use --match path"):
        run(tmp_path / "out", val=both)
    out = run(tmp_path / "out", val=both[:1])  # one member needs no matching
    assert (
        len(pd.read_csv(out / "val_ens.csv")) == 600 and len(pd.read_csv(out / "val_ens_objects.csv")) == 60
    )


def test_namesakes_of_another_class_stay_apart_in_validation(tmp_path, capsys):
    """0_g.fits is a lens in one folder and none in the other: two objects to judge, one id to submit."""
    text = "path,domain,label,prob,pred\n" + "".join(
        f"/{kind}/{i}_{band}.fits,hsc,{label},{0.8 * label + 0.1},1\n"
        for i in range(3)
        for kind, label in (("lens", 1), ("non", 0))
        for band in "gr"
    )
    (tmp_path / "v.csv").write_text(text)
    out = run(tmp_path / "out", val=[str(tmp_path / "v.csv")], test=[str(tmp_path / "v.csv")])
    assert json.loads((out / "metrics_val_ens.json").read_text())["global"]["roc_auc"] == 1
    assert list(pd.read_csv(out / "submission.csv")["id"]) == [0, 1, 2]
    assert "6 files have a name that occurs before, first '0_g'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "bands, flag, level, ids",
    [
        ("grizy", "auto", "object", 40),
        ("grizy", "object", "object", 40),
        ("grizy", "stem", "stem", 200),
        ("g", "auto", "stem", 40),
        ("g", "object", "object", 40),
        ("", "auto", "stem", 40),
    ],
)
def test_what_an_id_is(tmp_path, bands, flag, level, ids):
    if bands:
        paths = [
            member(tmp_path / f"{name}.csv", k, 40, blind=name == "t", bands=bands)
            for k, name in enumerate("vt")
        ]
    else:
        paths = [
            member(tmp_path / f"{name}.csv", k, 40, blind=name == "t", bands="-")
            for k, name in enumerate("vt")
        ]
    out = run(tmp_path / "out", "--id", flag, val=paths[:1], test=paths[1:])
    assert json.loads((out / "metrics_val_ens.json").read_text())["about"]["level"] == level
    sent = pd.read_csv(out / "submission.csv")
    assert len(sent) == ids
    # the request: the FITS stem
    stem = "object_00000" + (f"_{bands[0]}" if bands and level == "stem" else "")
    assert sent["id"][0] == stem and (out / "test_ens_objects.csv").exists() == (level == "object")


def test_quarantined_files(members, tmp_path, capsys):
    """The other bands decide; an object without any is submitted as 0 and named; --missing error refuses."""

    def hole(table):
        return table["prob"].where(~table.index.isin([0, 5, 6, 7, 8, 9]), np.nan)

    for path in members["test"]:
        change(path, prob=hole)
    out = run(tmp_path / "out", **members)
    said = capsys.readouterr()
    assert (
        "1 of 40 ids have no probability (every file quarantined): object_00001; submitted as 0" in said.err
    )
    objects, files = (pd.read_csv(out / f"test_ens{name}.csv") for name in ("_objects", ""))
    assert (
        objects["prob"][0] == pytest.approx(files["prob"][1:5].mean())
        and np.isnan(objects["prob"][1])
        and np.isnan(objects["pred"][1])
    )
    assert pd.read_csv(out / "submission.csv")["preds"][1] == 0 and len(files) == 200
    with pytest.raises(
        Mistake, match="1 of 40 ids have no probability .* mend those files, or --missing nonlens"
    ):
        run(tmp_path / "none", "--missing", "error", **members)
    assert not (tmp_path / "none").exists()


def test_a_file_that_one_member_could_not_read(members, tmp_path, capsys):
    change(members["val"][0], prob=lambda table: table["prob"].where(table.index != 3, np.nan))
    out = run(tmp_path / "out", val=members["val"])
    assert "1 files have no probability in some members" in capsys.readouterr().err
    rest = [pd.read_csv(path)["prob"][3] for path in members["val"][1:]]
    assert pd.read_csv(out / "val_ens.csv")["prob"][3] == pytest.approx(np.mean(rest))


def renamed(files: list[str], name: str) -> None:
    for path in files:
        table = pd.read_csv(path, keep_default_na=False)
        table["path"] = table["path"].str.replace("object_00003", name, regex=False)
        table.to_csv(path, index=False, quoting=csv.QUOTE_ALL)


LEGAL = [
    "J100000.35+101600.1",
    "SDSSJ0029-0055",
    "-5700402385077529",
    "-1.5e3",
    "DES J0408-5354",
    "a b",
    "a;b",
    'a"b',
    "a,b",
    "é",
    "星系",
]


@pytest.mark.parametrize("name", LEGAL)
def test_names_of_the_field_are_ids(members, tmp_path, name):
    renamed(members["test"], name)
    out = run(tmp_path / "out", **members)
    for table, column in (("submission", "id"), ("test_ens_objects", "object")):
        rows = pd.read_csv(out / f"{table}.csv", dtype=str)
        assert rows[column][3] == name and len(rows) == 40


@pytest.mark.parametrize("name", ["=cmd()", "+1", "@x", "\tx", "-x", "-1+cmd|'calc'!A0", " =1+1", "--1"])
def test_an_id_that_a_spreadsheet_would_run(members, tmp_path, capsys, name):
    renamed(members["test"], name)
    with pytest.raises(Mistake, match="1 ids cannot be written, first .*--escape"):
        run(tmp_path / "out", **members)
    assert not (tmp_path / "out").exists()
    out = run(tmp_path / "out", "--escape", **members)
    assert "1 ids that a spreadsheet would run have an apostrophe before them now" in capsys.readouterr().err
    for table, column in (("submission", "id"), ("test_ens_objects", "object"), ("files_test_ens", "object")):
        text = (out / f"{table}.csv").read_bytes().decode()
        rows = pd.read_csv(out / f"{table}.csv", dtype=str)
        assert f"'{name}" in text and (rows[column] == f"'{name}").sum() == (5 if "files" in table else 1)


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "\ra", "a\tb", "a\x7fb", "a\u2028b", "=\nb"])
@pytest.mark.parametrize("flags", [[], ["--escape"]])
def test_an_id_that_breaks_a_line(members, tmp_path, name, flags):
    renamed(members["test"], name)
    with pytest.raises(Mistake, match="1 ids cannot be written, .* control character"):
        run(tmp_path / "out", *flags, **members)


@pytest.mark.parametrize("which", ["val", "test"])
def test_domains_are_guarded_like_ids(members, tmp_path, capsys, which):
    for path in members[which]:
        change(path, domain=lambda table: "=HYPERLINK(0)")
    with pytest.raises(Mistake, match="1 domains cannot be written, first '=HYPERLINK"):
        run(tmp_path / "out", **members)
    out = run(tmp_path / "out", "--escape", "--uncertainty", **members)
    assert "1 domains that a spreadsheet would run" in capsys.readouterr().err
    for table in out.glob("*.csv"):
        cells = pd.read_csv(table, dtype=str, keep_default_na=False)
        assert not cells.apply(lambda column: column.str.startswith("=")).any(axis=None), table


def test_threshold_needs_labels_of_both_classes(members, tmp_path):
    with pytest.raises(
        Mistake, match="t\\* needs labelled lenses and non-lenses: give predictions made with --which val"
    ):
        run(tmp_path / "out", val=members["test"])
    for path in members["val"]:
        change(path, label=lambda table: 1)
    with pytest.raises(Mistake, match="60 lenses and 0 non-lenses"):
        run(tmp_path / "out", val=members["val"])


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "expected --val and --test"),
        (["--test", "T"], "either --val, .* or --threshold_file"),
        (["--val", "V", "--threshold_file", "t.txt"], "give one of them"),
        (["--val", "V", "--combine", "max"], "mean, logit, median"),
        (["--test", "T", "--threshold_file", "t.txt"], "--threshold_file 't.txt': expected a file"),
        (
            ["--test", "T", "--threshold_file", "t.txt", "--combine", "stack"],
            "stack and stack_logit need --val or a --weights_file",
        ),
        (["--val", "V", "--weights_file", "w.json"], "--combine mean, --weights_file 'w.json'"),
        (
            ["--val", "V", "--combine", "stack", "--weights_file", "w.json"],
            "--weights_file 'w.json': expected a JSON file",
        ),
        (
            ["--val", "V", "--calibrate", "vector", "--calibration_file", "c.json"],
            "give --calibration_file alone",
        ),
        (
            ["--test", "T", "--threshold_file", "t.txt", "--calibrate", "vector"],
            "--calibrate vector: is fitted on --val",
        ),
        (["--val", "V", "--test_parameters", "P"], "fills columns of the submission of --test"),
    ],
)
def test_flags_that_cannot_be(flags, message):
    with pytest.raises(Mistake, match=message):
        ensemble.main(flags)


def test_warnings(members, tmp_path, capsys):
    copy = tmp_path / "copy.csv"
    copy.write_text(Path(members["val"][0]).read_text())
    run(tmp_path / "a", val=[members["val"][0], str(copy)], test=members["test"][:1])
    run(tmp_path / "b", val=members["val"], test=members["val"])
    one_band = [member(tmp_path / f"g_{k}.csv", k, 40, blind=True, bands="g") for k in range(3)]
    run(tmp_path / "c", val=members["val"], test=one_band)
    said = capsys.readouterr().err
    for text in (
        "hold the same probabilities: is it the same seed?",
        "chosen with 2 members and used for 1",
        "60 ids are in --val and in --test",
        "chosen on one row per object and used on one row per stem",
    ):
        assert text in said


def test_logits_are_averaged_though_a_member_is_certain():
    """float32 writes a logit above 17 as 1: it must not outvote all others,
    and both ends are treated alike.
    """
    assert 0.5 < predictions.combine_probabilities(np.array([[1.0], [1e-4], [0.2]]), "logit")[0] < 1
    assert predictions.combine_probabilities(np.array([[1.0], [0.0]]), "logit")[0] == pytest.approx(0.5)
    assert np.isnan(predictions.combine_probabilities(np.full((2, 1), np.nan), "median")[0])


def networks(
    tmp_path: Path, which: str, objects: int, seed: int, skills=(1.5, 0.6, 0.0), blind: bool = False
) -> list[str]:
    """Predictions by networks of different skill, the last of which guesses; five bands an object."""
    random, label = np.random.default_rng(seed), np.arange(objects) % 2
    names = [f"object_{k:05d}" if blind else f"{which}_{'NL'[label[k]]}_{k:08d}" for k in range(objects)]
    paths = []
    for k, skill in enumerate(skills):
        own = random.normal(skill * (2 * label - 1), 1.5)[:, None] * 2 + random.normal(0, 0.5, (objects, 5))
        table = pd.DataFrame(
            dict(
                path=[f"/d/{name}_{band}.fits" for name in names for band in "grizy"],
                domain="hsc",
                label="" if blind else np.repeat(label, 5),
                prob=expit(own).ravel(),
            )
        )
        (tmp_path / f"net{k}").mkdir(exist_ok=True)
        paths.append(str(tmp_path / f"net{k}" / f"pred_{which}.csv"))
        table.to_csv(paths[-1], index=False)
    return paths


@pytest.mark.parametrize("how", ["stack", "stack_logit"])
def test_weights_are_fitted_compared_and_used_again(tmp_path, capsys, how):
    val, test = networks(tmp_path, "val", 400, 0), networks(tmp_path, "test", 300, 1)
    out = run(tmp_path / "out", "--combine", how, val=val, test=test)
    saved = json.loads((out / "weights.json").read_text())
    assert saved["members"] == ["net0", "net1", "net2"] and saved["combine"] == how
    assert saved["weights"][0] > 3 * saved["weights"][2]
    assert saved["cross_validated"]["log_loss_stack"] < saved["cross_validated"]["log_loss_mean"]
    said = capsys.readouterr().out
    assert (
        "weights: net0 0." in said and "on objects held out (5 folds, 400 rows): log loss lower by 0." in said
    )
    mean = run(tmp_path / "mean", val=val, test=test)
    auc = [
        json.loads((folder / "metrics_test_ens.json").read_text())["global"]["roc_auc"]
        for folder in (out, mean)
    ]
    assert auc[0] > auc[1] + 0.01
    again = run(
        tmp_path / "again",
        "--combine",
        how,
        "--weights_file",
        out / "weights.json",
        "--threshold_file",
        out / "threshold.txt",
        test=test,
    )
    for name in ("submission.csv", "test_ens_labeled.csv", "test_ens_objects.csv"):
        assert (again / name).read_text() == (out / name).read_text()
    files, objects = pd.read_csv(out / "test_ens_labeled.csv"), pd.read_csv(out / "test_ens_objects.csv")
    probs = np.stack([pd.read_csv(path)["prob"] for path in test])
    if how == "stack":
        np.testing.assert_allclose(files["prob"], np.array(saved["weights"]) @ probs, rtol=1e-9)
    else:
        np.testing.assert_allclose(
            logit(files["prob"]),
            np.array(saved["weights"]) @ logit(probs) + saved["offset"],
            rtol=1e-6,
            atol=1e-6,
        )
        np.testing.assert_allclose(
            logit(objects["prob"]), logit(files["prob"]).to_numpy().reshape(-1, 5).mean(1), rtol=1e-6
        )
    with pytest.raises(
        Mistake,
        match="weights are of net0, net1, net2, the files of net1, net0, net2: give them in the order",
    ):
        run(
            tmp_path / "no",
            "--combine",
            how,
            "--weights_file",
            out / "weights.json",
            "--threshold_file",
            out / "threshold.txt",
            test=[test[1], test[0], test[2]],
        )
    with pytest.raises(Mistake, match="weights of 3 members .* for 2 files"):
        run(
            tmp_path / "no",
            "--combine",
            how,
            "--weights_file",
            out / "weights.json",
            "--threshold_file",
            out / "threshold.txt",
            test=test[:2],
        )
    run(tmp_path / "other", "--threshold_file", out / "threshold.txt", test=test)
    assert "weights.json lies beside --threshold_file" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["temperature", "vector", "isotonic"])
def test_calibration_moves_no_object_but_its_probability(tmp_path, capsys, kind):
    """4,000 objects: the sampling noise of a calibrated set's ECE is 0.019 then,
    a quarter of what is to be seen.
    """
    val, test = networks(tmp_path, "val", 4000, 2), networks(tmp_path, "test", 4000, 3)
    raw = run(tmp_path / "raw", val=val, test=test)
    out = run(tmp_path / "out", "--calibrate", kind, val=val, test=test)
    assert f"{kind} calibration, on objects held out (5 folds)" in capsys.readouterr().out
    assert (out / "submission.csv").read_text() == (raw / "submission.csv").read_text()
    before, after = (
        json.loads((folder / "metrics_test_ens.json").read_text())["global"] for folder in (raw, out)
    )
    assert (
        after["roc_auc"] == pytest.approx(before["roc_auc"], abs=1e-12)
        and after["accuracy"] == before["accuracy"]
    )
    assert after["ece"] < 0.5 * before["ece"] and after["nll"] < before["nll"]
    files = [pd.read_csv(folder / "test_ens_labeled.csv") for folder in (raw, out)]
    # single bands stay as they were
    assert (files[0]["prob"] == files[1]["prob"]).all() and files[1]["pred"].isna().all()
    again = run(
        tmp_path / "again",
        "--calibration_file",
        out / "calibration.json",
        "--threshold_file",
        out / "threshold.txt",
        test=test,
    )
    for name in ("submission.csv", "test_ens_objects.csv"):
        assert (again / name).read_text() == (out / name).read_text()
    files = run(tmp_path / "files", "--calibrate", kind, "--id", "stem", val=val)
    table = pd.read_csv(files / "val_ens.csv")
    assert (table["pred"] == (table["prob"] >= float((files / "threshold.txt").read_text()))).all()
    run(out, val=val)
    assert not (out / "calibration.json").exists()  # t* there is one without it now


def test_conformal_threshold_keeps_lenses(tmp_path, capsys):
    val, test = networks(tmp_path, "val", 2000, 4), networks(tmp_path, "test", 2000, 5)
    out = run(
        tmp_path / "out",
        "--threshold_by",
        "conformal",
        "--alpha",
        0.1,
        "--uncertainty",
        "--calibrate",
        "vector",
        val=val,
        test=test,
    )
    objects = pd.read_csv(out / "val_ens_objects.csv")
    lenses = np.sort(objects["prob"][objects["label"] == 1])
    assert float((out / "threshold.txt").read_text()) == lenses[100 - 1]  # floor(1001 * 0.1) = 100
    assert "keeps at least 0.9 of new lenses: rank 100 of 1000 lenses of --val" in capsys.readouterr().out
    sheet = json.loads((out / "metrics_test_ens.json").read_text())["global"]
    assert sheet["recall"] == pytest.approx(0.9, abs=4 * np.sqrt(2 * 0.09 / 1000))
    unsure, objects = pd.read_csv(out / "uncertainty_test.csv"), pd.read_csv(out / "test_ens_objects.csv")
    truth = np.where(objects["label"] == 1, "lens", "non-lens")
    for value in ("lens", "non-lens"):
        held = ((unsure["set"] == truth) | (unsure["set"] == "both"))[truth == value]
        assert held.mean() == pytest.approx(0.9, abs=4 * np.sqrt(2 * 0.09 / 1000))
    sure = run(
        tmp_path / "sure", "--threshold_by", "conformal", "--delta", 0.05, "--calibrate", "vector", val=val
    )
    assert float((sure / "threshold.txt").read_text()) < float((out / "threshold.txt").read_text())
    with pytest.raises(
        Mistake, match="objects are too few for alpha 0.0001: expected at least 9999 of the class"
    ):
        run(tmp_path / "no", "--threshold_by", "conformal", "--alpha", 0.0001, val=val)
    run(tmp_path / "warned", "--threshold_by", "conformal", "--combine", "stack", val=val)
    assert "its guarantee holds only about" in capsys.readouterr().err


def test_uncertainty_has_a_row_for_each_object(members, tmp_path):
    out = run(tmp_path / "out", "--uncertainty", **members)
    for name in ("val", "test"):
        table, objects = (
            pd.read_csv(out / f"uncertainty_{name}.csv"),
            pd.read_csv(out / f"{name}_ens_objects.csv"),
        )
        assert (
            list(table) == ["id", "domain", "total", "aleatoric", "epistemic", "members"]
            and (table["id"] == objects["object"]).all()
        )
        p = objects["prob"]
        np.testing.assert_allclose(table["total"], -p * np.log(p) - (1 - p) * np.log(1 - p), rtol=1e-9)
        np.testing.assert_allclose(table["total"], table["aleatoric"] + table["epistemic"], rtol=1e-9)
        assert (table["epistemic"] >= 0).all() and (table["members"] == 3).all()


def test_inferred_parameters_fill_the_columns_of_lenses(members, tmp_path, capsys):
    random = np.random.default_rng(0)
    paths = []
    for k in range(2):
        table = pd.read_csv(members["test"][0])[["path"]].iloc[:-5]  # of the last object nothing is known
        table["Rein"], table["Rein_err"] = (
            random.uniform(0.5, 2, len(table)),
            random.uniform(0.05, 0.2, len(table)),
        )
        table["ell_m_PA"], table["ell_m_PA_err"] = random.uniform(-5, 5, len(table)) % 180, 3.0
        # object k is known to the other member alone
        table.loc[5 * k : 5 * k + 4, ["Rein", "Rein_err"]] = np.nan
        table["mood"], table["mood_err"] = 1.0, 1.0
        paths.append(str(tmp_path / f"parameters_{k}.csv"))
        table.to_csv(paths[-1], index=False)
    out = run(tmp_path / "out", "--test_parameters", *paths, **members)
    sent, tables = pd.read_csv(out / "submission.csv"), [pd.read_csv(path) for path in paths]
    rein = np.nanmean([table["Rein"].to_numpy().reshape(-1, 5).mean(1) for table in tables], axis=0)
    lenses = (sent["preds"] == 1).to_numpy()
    known = lenses & (np.arange(40) < 39)
    assert 5 < known.sum() < 35
    np.testing.assert_allclose(sent["Rein"][known], rein[np.flatnonzero(known)], rtol=1e-12)
    assert (sent["Rein"][~known] == -99).all() and (sent["zlens"] == -99).all() and "mood" not in sent
    turned = (sent["ell_m_PA"][known] + 90) % 180 - 90
    assert (turned.abs() < 5).all()
    assert "1 of 40 ids are not in them and keep --fill" in capsys.readouterr().err
    text = (out / "submission.csv").read_text().splitlines()[1 + int(np.flatnonzero(~lenses)[0])]
    assert set(text.split(",")[2:]) == {"-99"}
    every = pd.read_csv(
        run(out, "--test_parameters", *paths, "--submit", "prob", **members) / "submission.csv"
    )
    np.testing.assert_allclose(every["Rein"][:39], rein, rtol=1e-12)
    change(paths[0], path=lambda table: table["path"].str.replace("object", "thing"))
    with pytest.raises(Mistake, match="holds none of the 40 ids, such as 'object_00000'"):
        run(tmp_path / "no", "--test_parameters", paths[0], **members)


def test_the_command_runs_and_prints_its_table(members, tmp_path):
    out = subprocess.run(
        [
            sys.executable,
            "ensemble.py",
            "--val",
            *members["val"],
            "--test",
            *members["test"],
            "--out-dir",
            str(tmp_path / "o"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert out.returncode == 0, out.stderr
    assert "t* = " in out.stdout and "AUC [95 %]" in out.stdout and "submission.csv: 40 ids" in out.stdout


def test_probabilities_at_the_rate_of_the_sky(members, tmp_path, capsys):
    plain = run(tmp_path / "plain", "--submit", "prob", **members)
    labels = run(tmp_path / "labels", **members)
    capsys.readouterr()
    out = run(tmp_path / "sky", "--submit", "prob", "--lens_rate", "1e-4", **members)
    told = capsys.readouterr().out
    val = pd.read_csv(out / "val_ens_objects.csv")
    rate = val["label"].mean()
    sent, before = (pd.read_csv(folder / "submission.csv") for folder in (out, plain))
    assert list(sent) == list(before)
    prob = before.iloc[:, 1]
    weight = np.stack([prob * 1e-4 / rate, (1 - prob) * (1 - 1e-4) / (1 - rate)])
    np.testing.assert_allclose(sent.iloc[:, 1], weight[0] / weight.sum(0), rtol=1e-9)
    threshold = re.search(r"from 0.5: t\* is (\S+) there, so what is called a lens is the same", told)
    called = (sent.iloc[:, 1] >= float(threshold[1])).astype(int)
    assert called.tolist() == pd.read_csv(labels / "submission.csv")["preds"].tolist()
    assert "purity at a lens rate of 0.0001:" in told
    for name in ("val_ens.csv", "test_ens.csv", "threshold.txt"):
        assert (out / name).read_bytes() == (plain / name).read_bytes()


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            ["--test", "T", "--threshold_file", "t", "--lens_rate", "1e-4"],
            "without --val; give --training_rate",
        ),
        (["--val", "V", "--training_rate", "0.5"], "goes with --lens_rate"),
        (["--val", "V", "--lens_rate", "1"], "--lens_rate: got 1"),
    ],
)
def test_rates_that_cannot_be(flags, message):
    with pytest.raises(Mistake, match=message):
        ensemble.main(flags)


def test_a_rate_is_stated_where_there_is_no_validation(members, tmp_path):
    val = run(tmp_path / "val", val=members["val"])
    flags = ["--threshold_file", val / "threshold.txt", "--submit", "prob", "--lens_rate", "0.01"]
    one = run(tmp_path / "one", *flags, "--training_rate", "0.5", test=members["test"])
    other = run(tmp_path / "other", "--submit", "prob", "--lens_rate", "0.01", **members)
    assert (one / "submission.csv").read_text() == (other / "submission.csv").read_text()


def test_probabilities_of_the_other_class_are_remarked(members, tmp_path, capsys):
    run(tmp_path / "right", val=members["val"])
    assert "far below 0.5" not in capsys.readouterr().err
    for path in members["val"]:
        change(path, prob=lambda table: 1 - table["prob"])
    run(tmp_path / "wrong", val=members["val"])
    assert "warning: val, global: AUC 0." in (told := capsys.readouterr().err) and "far below 0.5" in told
