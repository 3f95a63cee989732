"""The whole road by commands, whatever a file is: bands as HDUs of one file, planes of a cube, files of any
names. One row an object throughout, by its own id, at its own place.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

import convert
import ensemble
import evaluate
import predict
import train
from evaluation import predictions
from utils.mistake import Mistake

OBJECTS = 48
BANDS = ("VIS", "J", "H")
SIDE = 41
NETWORK = ["--model", "robust_resnet", "--model_size", "18", "--model_kwargs", "width=0.125"]
SPLIT = ["--train_frac", "0.4", "--val_frac", "0.3", "--test_frac", "0.3"]
# names of the field, and one that ends as if in a band
NAMES = ["J1000{:02d}.35+101600.1", "-57004023850775{:02d}", "DES J04{:02d}-5354", "lens{:02d}_g"]


def name_of(number: int) -> str:
    return NAMES[number % 4].format(number)


def images(number: int) -> np.ndarray:
    """[bands, SIDE, SIDE] float32: a galaxy, with a ring around every other one."""
    draw = np.random.default_rng(number)
    y, x = np.indices((SIDE, SIDE)) - SIDE // 2
    radius = np.hypot(x, y)
    ring = np.exp(-(((radius - 9) / 1.5) ** 2)) * (number % 2)
    galaxy = np.exp(-radius / 3) + ring
    return (galaxy + 0.02 * draw.normal(size=(3, SIDE, SIDE))).astype("f4")


def written(folder: Path, layout: str) -> list[str]:
    """Write the images of all objects in this layout, and their table; returns the options of convert.py."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(OBJECTS):
        name, planes = name_of(number), images(number)
        about = dict(id=name, label=number % 2, ra=10 + number, dec=-number / 4)
        path = folder / "images" / f"{number}.fits"  # the name says nothing
        if layout == "hdus":
            extensions = [fits.ImageHDU(plane) for plane in planes]
            fits.HDUList([fits.PrimaryHDU(), *extensions]).writeto(path)
            rows += [
                about | dict(file=path.name, hdu=hdu, band=band) for hdu, band in enumerate(BANDS, start=1)
            ]
        elif layout == "cubes":
            fits.PrimaryHDU(planes).writeto(path)
            rows.append(about | dict(file=path.name))
        else:
            for band, plane in zip(BANDS, planes):
                fits.PrimaryHDU(plane).writeto(folder / "images" / f"{name}_{band}.fits")
            rows.append(about)
    pd.DataFrame(rows).to_csv(folder / "table.csv", index=False)
    planes = ["--planes", *BANDS] if layout == "cubes" else []
    return ["--input", str(folder / "images"), "--table", str(folder / "table.csv"), *planes]


@pytest.fixture(scope="module", params=[("hdus", "single"), ("cubes", "stack"), ("files", "single")])
def road(request, tmp_path_factory) -> tuple[Path, str]:
    """(the folder in which convert, train and predict ran, --band_mode)."""
    layout, mode = request.param
    folder = tmp_path_factory.mktemp(layout)
    convert.main(["fits", *written(folder, layout), "--output", str(folder / "store")])
    store = ["--store", str(folder / "store"), "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("utils.stop.signal.signal", lambda *_: None)
        train.main(
            [
                *store,
                *NETWORK,
                *SPLIT,
                "--band_mode",
                mode,
                "--epochs",
                "1",
                "--save_dir",
                str(folder / "run"),
            ]
            + ["--regression", "Rein"]  # which no table tells
        )
    for which in ("val", "test"):
        out = ["--which", which, "--output_dir", str(folder / "pred")]
        predict.main(["--model_path", str(folder / "run" / "best.pt"), *store, *out])
    return folder, mode


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"object": str, "id": str}, keep_default_na=False)


@pytest.fixture
def ensembled(road, tmp_path) -> tuple[Path, Path]:
    """(the folder of the predictions, that of the ensemble)."""
    folder, _ = road
    tables = [f"--{which}={folder}/pred/pred_{which}.csv" for which in ("val", "test")]
    ensemble.main([*tables, "--out_dir", str(tmp_path), "--bootstrap", "20"])
    return folder / "pred", tmp_path


def test_predict_says_what_its_rows_are(road):
    folder, mode = road
    split = pd.read_parquet(folder / "run" / "split.parquet").set_index("path")
    of_object = {name_of(number): number for number in range(OBJECTS)}
    for which in ("val", "test"):
        pred, files, objects = (
            read(folder / "pred" / f"{kind}_{which}.csv") for kind in ("pred", "files", "objects")
        )
        assert pred.columns.tolist() == ["path", "domain", "label", "prob", "pred"]
        assert files.columns.tolist() == ["path", "object", "band"]
        assert files["path"].tolist() == pred["path"].tolist()
        known = split.loc[files["path"]]
        assert (known["object"] == files["object"].to_numpy()).all()
        assert (known["band"] == files["band"].to_numpy()).all() and set(files["band"]) == set(BANDS)

        columns = ["object", "ra", "dec", "domain", "label", "prob", "bands", "split", "reason"]
        assert objects.columns.tolist() == columns and objects["object"].is_unique
        assert len(objects) * 3 == len(pred) and set(objects["object"]) <= of_object.keys()
        number = objects["object"].map(of_object)
        assert (objects["ra"] == 10 + number).all() and (objects["dec"] == -number / 4).all()
        assert (objects["label"] == number % 2).all() and (objects["split"] == which).all()
        assert all(sorted(bands.split()) == sorted(BANDS) for bands in objects["bands"])
        mean = pred["prob"].groupby(files["object"]).mean()
        np.testing.assert_allclose(objects["prob"], mean[objects["object"]], rtol=1e-6)
        if mode == "stack":  # to the last digit what the files have
            assert set(objects["prob"]) == set(pred["prob"])


def test_a_quantity_that_nothing_taught_is_not_written(road):
    folder, _ = road
    assert not list((folder / "pred").glob("parameters_*"))


def test_one_row_an_object_is_judged_and_submitted(ensembled, capsys):
    pred, out = ensembled
    said = capsys.readouterr()
    assert "taken for" not in said.err and "band in the names" not in said.err
    objects = {which: read(pred / f"objects_{which}.csv") for which in ("val", "test")}
    sent = read(out / "submission.csv")
    assert sent["id"].tolist() == objects["test"]["object"].tolist()
    assert (sent["RA"] == objects["test"]["ra"]).all() and (sent["Dec"] == objects["test"]["dec"]).all()
    assert (sent["zlens"] == -99).all()
    for which, name in (("val", "val_ens"), ("test", "test_ens_labeled")):
        sheet = json.loads((out / f"metrics_{which}_ens.json").read_text())
        assert sheet["about"]["level"] == "object" and sheet["global"]["n"] == len(objects[which])
        fused = read(out / f"{which}_ens_objects.csv")
        assert fused.columns.tolist() == ["object", "domain", "label", "prob", "pred", "ra", "dec"]
        assert fused["object"].tolist() == objects[which]["object"].tolist()
        np.testing.assert_allclose(fused["prob"], objects[which]["prob"], rtol=1e-6)
        assert read(out / f"{name}.csv").columns.tolist() == ["path", "domain", "label", "prob", "pred"]
        # whichever of the tables is judged
        for table in (out / f"{name}.csv", out / f"{which}_ens_objects.csv", pred / f"pred_{which}.csv"):
            flags = ["--csv", str(table), "--by_object", "--bootstrap", "0", "--out_dir", str(out)]
            evaluate.main(["--tag", "again", *flags, "--threshold_file", str(out / "threshold.txt")])
            again = json.loads((out / "metrics_again.json").read_text())["global"]
            assert again["n"] == len(objects[which])
            assert again["roc_auc"] == pytest.approx(sheet["global"]["roc_auc"], abs=1e-12)
    said = capsys.readouterr()
    count = len(objects["val"])
    assert f"{3 * count} rows fused to {count} objects" in said.out
    assert f"{count} rows are {count} objects: there is nothing to fuse" in said.out
    # nothing else on stderr but what 16 objects and a few steps are worth
    assert all("is prob that of a non-lens" in line for line in said.err.splitlines())


def test_tables_of_objects_are_members_too(ensembled, tmp_path, capsys):
    pred, out = ensembled
    tables = [f"--{which}={pred}/objects_{which}.csv" for which in ("val", "test")]
    ensemble.main([*tables, "--out_dir", str(tmp_path / "again"), "--bootstrap", "0"])
    assert read(tmp_path / "again" / "submission.csv").equals(read(out / "submission.csv"))
    table = read(tmp_path / "again" / "val_ens.csv")
    assert table.columns.tolist() == ["object", "domain", "label", "prob", "pred"]
    capsys.readouterr()
    with pytest.raises(Mistake, match="objects_val.csv has one row an object, .*pred_val.csv one a file"):
        ensemble.main(["--val", f"{pred}/objects_val.csv", f"{pred}/pred_val.csv"])
    with pytest.raises(Mistake, match="--id stem: a row of .* is an object"):
        ensemble.main(["--val", f"{pred}/objects_val.csv", "--id", "stem"])


@pytest.mark.parametrize("beside", [True, False])
def test_parameters_are_of_the_same_objects(ensembled, tmp_path, beside):
    """By the table beside them, or the paths of the test files."""
    pred, _ = ensembled
    files = read(pred / "files_test.csv")
    number = files["object"].map({name_of(number): number for number in range(OBJECTS)})
    (tmp_path / "p").mkdir()
    table = pd.DataFrame(dict(path=files["path"], Rein=1 + number / 100, Rein_err=0.1))
    table.to_csv(tmp_path / "p" / "parameters_test.csv", index=False)
    if beside:
        files.to_csv(tmp_path / "p" / "files_test.csv", index=False)
    tables = [f"--{which}={pred}/pred_{which}.csv" for which in ("val", "test")]
    flags = ["--test_parameters", str(tmp_path / "p" / "parameters_test.csv"), "--bootstrap", "0"]
    ensemble.main([*tables, *flags, "--submit", "prob", "--out_dir", str(tmp_path)])
    sent = read(tmp_path / "submission.csv").set_index("id")
    expected = (1 + number / 100).groupby(files["object"]).first()
    np.testing.assert_allclose(sent["Rein"].astype(float), expected[sent.index])


def test_identity_of_other_files_is_refused(road, tmp_path):
    folder, _ = road
    for name in ("pred_val.csv", "files_val.csv"):
        (tmp_path / name).write_bytes((folder / "pred" / name).read_bytes())
    files = read(tmp_path / "files_val.csv")
    # another order is as good
    files[::-1].to_csv(tmp_path / "files_val.csv", index=False)
    table = predictions.read_predictions(str(tmp_path / "pred_val.csv"))[::-1]
    assert table["object"].tolist() == files["object"][::-1].tolist()
    files[2:].to_csv(tmp_path / "files_val.csv", index=False)
    for command in (ensemble.main, evaluate.main):
        flag = "--val" if command is ensemble.main else "--csv"
        with pytest.raises(Mistake, match="files_val.csv: lacks 2 of the .* files of .*pred_val.csv, first"):
            command([flag, str(tmp_path / "pred_val.csv"), "--out_dir", str(tmp_path / "out")])
    (tmp_path / "files_val.csv").write_text("a,b\n1,2\n")
    with pytest.raises(
        Mistake, match="files_val.csv: should say what the rows of .*predict again, or remove"
    ):
        ensemble.main(["--val", str(tmp_path / "pred_val.csv")])


def test_a_file_of_two_objects_has_a_row_for_each(tmp_path):
    """As convert.py makes them of a table that names a file under two ids."""
    count = 12
    paths = [f"/d/{number // 2}.fits" for number in range(count)]
    files = pd.DataFrame(dict(path=paths, object=[f"o{number}" for number in range(count)], band="g"))
    label = np.arange(count) // 2 % 2
    prob = 0.2 + label / 2 + np.arange(count) / 99
    pred = pd.DataFrame(dict(path=paths, domain="d", label=label, prob=prob))
    pred.to_csv(tmp_path / "pred_val.csv", index=False)
    with pytest.raises(Mistake, match="names '/d/0.fits' twice"):
        predictions.read_predictions(str(tmp_path / "pred_val.csv"))
    files.to_csv(tmp_path / "files_val.csv", index=False)
    val = str(tmp_path / "pred_val.csv")
    out = tmp_path / "out"
    ensemble.main(["--val", val, "--test", val, "--out_dir", str(out), "--bootstrap", "0"])
    assert pd.read_csv(out / "submission.csv")["id"].tolist() == files["object"].tolist()
    again = predictions.read_predictions(str(out / "val_ens.csv"))
    assert again["object"].tolist() == files["object"].tolist()
    assert again["prob"].tolist() == pred["prob"].tolist()


@pytest.mark.parametrize(
    "ends, said, ids",
    [
        (["_g", "_r", "_i"], "names end in _g _r _i: taken for bands; 51 files are 17 objects", 17),
        ([""], "no band in the names: each file is an object; 17 files are 17 objects", 17),
        (["_g", "_Q2"], "names end in _g: taken for bands (17 names have none); 34 files are 34 objects", 34),
    ],
)
def test_what_was_taken_for_a_band_is_said(tmp_path, capsys, ends, said, ids):
    names = [f"X{number:02d}{end}.fits" for number in range(17) for end in ends]
    label = np.repeat(np.arange(17) % 2, len(ends))
    table = pd.DataFrame(dict(path=names, domain="d", label=label, prob=0.25 + label / 2))
    table.to_csv(tmp_path / "bare.csv", index=False)
    bare = str(tmp_path / "bare.csv")
    ensemble.main(["--val", bare, "--test", bare, "--out_dir", str(tmp_path / "out"), "--bootstrap", "0"])
    assert f"bare.csv: {said}" in capsys.readouterr().err
    assert len(pd.read_csv(tmp_path / "out" / "submission.csv")) == ids
    evaluate.main(["--csv", bare, "--out_dir", str(tmp_path / "out"), "--bootstrap", "0"])
    assert f"evaluate.py: {bare}: {said}" in capsys.readouterr().err


def test_what_may_be_a_band_is_asked_and_can_be_given(tmp_path, capsys):
    """Names of no known band: 51 files may be 17 objects. With a column `object` they are."""
    names = [f"X{number:02d}_{band}" for number in range(17) for band in ("p1", "p2", "p3")]
    label = np.repeat(np.arange(17) % 2, 3)
    table = pd.DataFrame(dict(path=names, domain="d", label=label, prob=0.25 + label / 2))
    bare, out = str(tmp_path / "bare.csv"), str(tmp_path / "out")
    table.to_csv(bare, index=False)
    ensemble.main(["--val", bare, "--test", bare, "--out_dir", out, "--bootstrap", "0"])
    said = capsys.readouterr().err
    assert "51 files are 51 objects; if _p1, _p2, _p3 are bands, give it a column `object`" in said
    table.assign(object=table["path"].str[:3]).to_csv(bare, index=False)
    ensemble.main(["--val", bare, "--test", bare, "--out_dir", out, "--bootstrap", "0"])
    assert "are bands" not in capsys.readouterr().err
    assert pd.read_csv(tmp_path / "out" / "submission.csv")["id"].tolist() == [f"X{k:02d}" for k in range(17)]


def two_surveys(path: Path, count: int, both: int) -> str:
    """A table of objects of `hsc`, the first `both` of them in `des` too, where they look the other way."""
    number = np.arange(count)
    label = number % 2
    hsc = pd.DataFrame(
        dict(object=[f"o{k}" for k in number], domain="hsc", label=label, prob=0.3 + 0.4 * label)
    )
    des = hsc[:both].assign(domain="des", prob=0.9 - 0.4 * label[:both])
    pd.concat([hsc, des]).to_csv(path, index=False)
    return str(path)


def test_t_star_is_chosen_on_what_is_submitted(tmp_path, capsys):
    """Of objects in two surveys the mean is judged, which is what t* is applied to."""
    val = two_surveys(tmp_path / "val.csv", 40, 40)
    out = tmp_path / "out"
    ensemble.main(["--val", val, "--test", val, "--out_dir", str(out), "--bootstrap", "0"])
    table = pd.read_csv(val)
    mean = table.groupby("object")["prob"].mean()
    rows = pd.read_csv(out / "val_ens_objects.csv").set_index("object")
    assert len(rows) == 40 and set(rows["domain"]) == {"des+hsc"}
    np.testing.assert_allclose(rows["prob"], mean[rows.index])
    sent = pd.read_csv(out / "submission.csv").set_index("id")["preds"]
    assert (sent == rows["pred"]).all() and len(sent) == 40
    threshold = float((out / "threshold.txt").read_text())
    assert threshold in set(rows["prob"])  # of the means, not of one survey
    sheet = json.loads((out / "metrics_val_ens.json").read_text())["global"]
    evaluate.main(["--csv", val, "--by_object", "--bootstrap", "0", "--out_dir", str(out)])
    again = json.loads((out / "metrics_test.json").read_text())["global"]
    assert sheet["n"] == again["n"] == 40 and sheet["roc_auc"] == again["roc_auc"]
    assert "is a lens in one row" not in capsys.readouterr().err


def test_an_id_with_two_labels_is_said(tmp_path, capsys):
    val = two_surveys(tmp_path / "val.csv", 40, 3)
    table = pd.read_csv(val)
    table.loc[table["domain"] == "des", "label"] = 1 - table["label"]
    table.to_csv(val, index=False)
    ensemble.main(["--val", val, "--out_dir", str(tmp_path / "out"), "--bootstrap", "0"])
    said = capsys.readouterr().err
    assert "3 ids are a lens in one row and none in another (o0, o1, o2)" in said
    assert len(pd.read_csv(tmp_path / "out" / "val_ens_objects.csv")) == 43


@pytest.mark.parametrize(
    "val_des, test_des, said",
    [
        (1, None, "domain des: 1 of the 80 objects of --val that t* is chosen on are of it: t* says little"),
        (1, 30, "domain des: 1 of the 80 objects of --val that t* is chosen on are of it (30 of --test are)"),
        (0, 2, "domain des: 0 of the 80 objects of --val that t* is chosen on are of it (2 of --test are)"),
        (20, 30, ""),
        (0, None, ""),
    ],
)
def test_a_domain_that_t_star_knows_little_of_is_said(tmp_path, capsys, val_des, test_des, said):
    val = two_surveys(tmp_path / "val.csv", 80, val_des)
    argv = ["--val", val, "--out_dir", str(tmp_path / "out"), "--bootstrap", "0"]
    if test_des is not None:
        argv += ["--test", two_surveys(tmp_path / "test.csv", 80, test_des)]
    ensemble.main(argv)
    heard = capsys.readouterr().err
    assert said in heard if said else "domain" not in heard
