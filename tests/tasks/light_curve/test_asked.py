"""One row for each light curve, whatever happens; the embedding is the curve's own,
and the probes say what it knows.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from astropy.io import fits
from sklearn.ensemble import RandomForestClassifier

from tasks.light_curve import asked
import predict
import simulate
import train
from data.light_curves.curve import Reading, with_rates
from data.light_curves.files import find_light_curves
from data.light_curves.packed import OF_BAND, LightCurves, open_packed
from tasks import light_curve
from trained import load, load_weights
from utils import checkpoint, config
from utils.mistake import Mistake

LATENT = 3


@pytest.fixture(scope="session")
def survey(tmp_path_factory) -> Path:
    """48 simulated curves of 8 to 14 points."""
    root = tmp_path_factory.mktemp("answer_survey") / "D"
    simulate.main(
        [
            "light_curves",
            "--out",
            str(root),
            "--curves",
            "48",
            "--points_low",
            "8",
            "--points_high",
            "14",
            "--workers",
            "1",
        ]
    )
    return root


@pytest.fixture(scope="session")
def trained(survey, tmp_path_factory) -> Path:
    """The run directory of a small network, trained on it for a moment."""
    folder = tmp_path_factory.mktemp("answer_run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("utils.stop.signal.signal", lambda *_: None)
        train.main(
            [
                "--task",
                "light_curve",
                "--data",
                str(survey),
                "--store_dir",
                str(folder / "stores"),
                "--save_dir",
                str(folder / "run"),
                "--hidden",
                "8",
                "--latent",
                str(LATENT),
                "--layers",
                "1",
                "--dropout",
                "0",
                "--harmonics",
                "4",
                "--epochs",
                "3",
                "--lr",
                "0.01",
                "--batch_size",
                "12",
                "--plot_every",
                "0",
                "--train_frac",
                "0.6",
                "--val_frac",
                "0.2",
                "--test_frac",
                "0.2",
                "--device",
                "cpu",
            ]
        )
    return folder / "run"


@pytest.fixture
def run(trained, survey, tmp_path):
    def run(*options) -> pd.DataFrame:
        options = [*map(str, options)]
        out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
        predict.main(
            [
                "--model_path",
                str(trained / "best.pt"),
                "--store_dir",
                str(tmp_path / "stores"),
                "--device",
                "cpu",
                "--output_dir",
                str(out),
                *([] if "--data" in options else ["--data", str(survey)]),
                *options,
            ]
        )
        which = options[options.index("--which") + 1] if "--which" in options else "test"
        table = pd.read_parquet(out / f"embedding_{which}.parquet")
        table.attrs["out"] = str(out)
        return table

    return run


@pytest.fixture
def few_trees(monkeypatch):
    monkeypatch.setattr(
        "sklearn.ensemble.RandomForestClassifier",
        lambda _trees, **options: RandomForestClassifier(10, **options),
    )


@pytest.fixture
def spoiled(survey, tmp_path) -> tuple[Path, dict[str, str]]:
    """The survey with an empty file, a truncated one, and one of two points;
    path -> a word of the reason that must be given.
    """
    shutil.copytree(survey, tmp_path / "D")
    empty, short, few = sorted((tmp_path / "D").rglob("*.fits"))[:3]
    empty.write_bytes(b"")
    short.write_bytes(short.read_bytes()[:-2880])
    with fits.open(few) as hdus:
        content = fits.HDUList([hdus[0].copy(), fits.BinTableHDU(hdus[1].data[:2], hdus[1].header)])
    content.writeto(few, overwrite=True)
    return tmp_path / "D", {str(empty): "empty", str(short): "truncated", str(few): "2 points, fewer than 3"}


NAMES = [f"z_{i:02d}" for i in range(LATENT)], [f"s_{i:02d}" for i in range(LATENT)]


def test_one_row_a_curve_with_all_its_columns(run, survey):
    table = run("--which", "all")
    bands = ("0.2-0.6", "0.6-2.3", "2.3-5")
    assert table.columns.tolist() == [
        "path",
        "source",
        "split",
        "points",
        "signal",
        *(f"rate_{band}" for band in bands),
        *NAMES[0],
        *NAMES[1],
        "anomaly",
        "anomaly_steady",
        "shortfall",
        "deviance",
        "excess",
        "constant_deviance",
        "constant_excess",
        *(f"stat_{name}" for name in asked.variability.STATISTICS),
        "reason",
    ]
    assert (
        table["path"].tolist() == [str(path) for path in sorted(survey.rglob("*.fits"))]
        and table["source"].is_unique
    )
    labels = pd.read_csv(survey / "labels.csv").set_index("source").loc[table["source"]]
    share = table["points"].to_numpy(float) / labels["points"].to_numpy()  # slivers are dropped
    assert (share <= 1).all() and share.mean() > 0.9
    assert set(table["split"]) == {"train", "val", "test"} and (table["reason"] == "").all()
    numbers = table.drop(columns=["path", "source", "split", "reason"])
    assert (
        np.isfinite(numbers.to_numpy(float)).all()
        and (table[NAMES[1]] > 0).all(axis=None)
        and (table["rate_0.6-2.3"] > 0).all()
    )


def test_splits_are_those_of_training(run, trained):
    split = pd.read_parquet(trained / "split.parquet")
    whole = run("--which", "all").set_index("path")
    parts = []
    for which in ("train", "val", "test"):
        table = run("--which", which)
        assert (table["split"] == which).all() and set(table["path"]) == set(
            split["path"][split["split"] == which]
        )
        pd.testing.assert_frame_equal(
            table.set_index("path"), whole.loc[table["path"]], check_exact=False, rtol=1e-4, atol=1e-5
        )
        parts.append(table)
    assert len(pd.concat(parts)) == 48
    blind = run("--which", "blind")
    pd.testing.assert_frame_equal(blind.set_index("path"), whole)


def test_the_embedding_is_the_networks_and_independent_of_the_batch(run, trained, survey, tmp_path):
    table = run("--which", "val")
    for size in (1, 3):
        pd.testing.assert_frame_equal(
            run("--which", "val", "--batch_size", size), table, check_exact=False, rtol=1e-4, atol=1e-5
        )
    saved = checkpoint.load(trained / "best.pt")
    model = load_weights(
        light_curve.build_network(config.recorded(light_curve.Config, saved["record"]["options"]), 3),
        saved,
        torch.device("cpu"),
    )
    packed = open_packed(next((tmp_path / "stores").iterdir()))
    row = packed.curves.index[packed.curves["path"] == table["path"][1]].to_numpy()
    batch = LightCurves(packed, row)[0]
    with torch.no_grad():
        said = model(
            batch["rate"],
            batch["error_low"],
            batch["error_up"],
            batch["observed"],
            batch["time"],
            batch["length"],
        )
    np.testing.assert_allclose(table.loc[1, NAMES[0]].to_numpy(float), said.mean[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(table.loc[1, NAMES[1]].to_numpy(float), (said.logvar[0] / 2).exp(), rtol=1e-4)


def test_refused_files_and_short_curves_keep_their_row_and_get_a_reason(run, spoiled):
    folder, reasons = spoiled
    table = run("--data", folder, "--which", "all").set_index("path")
    assert len(table) == 48 and set(table.index[table["reason"] != ""]) == reasons.keys()
    bad = table.loc[list(reasons)]
    assert all(word in bad.loc[path, "reason"] for path, word in reasons.items()), bad["reason"].tolist()
    assert (
        bad[NAMES[0] + NAMES[1] + ["anomaly", "points"]].isna().all(axis=None) and (bad["split"] == "").all()
    )
    good = table[table["reason"] == ""]
    assert good[NAMES[0]].notna().all(axis=None) and len(good) == 45
    assert not (set(run("--data", folder, "--which", "test")["path"]) & reasons.keys())


def test_h5_holds_the_same_table_and_the_weights(run, trained):
    import h5py

    table = run("--which", "all", "--h5", "embedding", "weights")
    out = Path(table.attrs["out"])
    with h5py.File(out / "embedding_all.h5") as file:
        for letter, names in zip("zs", NAMES):
            assert file[letter].shape == (48, LATENT)
            np.testing.assert_array_equal(file[letter][:], table[names].to_numpy(np.float32))
        assert (
            file["path"].asstr()[:].tolist() == table["path"].tolist()
            and file["split"].asstr()[:].tolist() == table["split"].tolist()
        )
        np.testing.assert_array_equal(file["anomaly"][:], table["anomaly"].to_numpy(np.float64))
        assert set(file) == {"z", "s"} | set(table.columns) - set(NAMES[0] + NAMES[1])
    saved = checkpoint.load(trained / "best.pt")
    with h5py.File(out / "weights.h5") as file:
        for name, tensor in saved["model"].items():
            assert np.array_equal(file[name.replace(".", "/")][()], tensor.numpy())
        assert json.loads(file.attrs["options"])["latent"] == LATENT and json.loads(file.attrs["bands"]) == [
            "0.2-0.6",
            "0.6-2.3",
            "2.3-5",
        ]


def test_h5_of_refused_files_and_of_last_pt(run, spoiled, trained):
    import h5py

    table = run(
        "--data",
        spoiled[0],
        "--which",
        "all",
        "--h5",
        "embedding",
        "weights",
        "--model_path",
        trained / "last.pt",
    )
    with h5py.File(Path(table.attrs["out"]) / "embedding_all.h5") as file:
        assert (
            np.isnan(file["z"][45:]).all() and file["reason"].asstr()[:].tolist() == table["reason"].tolist()
        )
    with h5py.File(Path(table.attrs["out"]) / "weights.h5") as file:
        assert file["encoder/weight_ih_l0"].shape[0] == 24


def test_the_probe_of_the_simulators_labels(run, survey, few_trees, capsys):
    table = run("--which", "all", "--probe", survey / "labels.csv")
    results = json.loads((Path(table.attrs["out"]) / "probe_all.json").read_text())
    assert results.keys() == {"embedding", "latent_means", "nine_statistics"}
    for result in results.values():
        assert (
            result["n"] == 48 and len(result["classes"]) == 6 and result["majority"] == pytest.approx(1 / 6)
        )
        assert np.sum(result["linear"]["confusion"]) == 48
    # the six processes are told by hand already
    assert results["nine_statistics"]["forest"]["accuracy"] > 0.35
    assert "48 labelled curves, five-fold cross-validation" in capsys.readouterr().out


def test_the_probe_takes_a_column_some_labels_and_paths(run, survey, few_trees, tmp_path):
    labels = pd.read_csv(survey / "labels.csv")
    kinds = labels.assign(
        bright=np.where(labels["total_counts"] > labels["total_counts"].median(), "bright", "faint")
    )
    kinds.loc[:7, "bright"] = ""
    kinds.to_csv(tmp_path / "kinds.csv", index=False)
    table = run("--which", "all", "--probe", f"{tmp_path / 'kinds.csv'}:bright")
    result = json.loads((Path(table.attrs["out"]) / "probe_all.json").read_text())["embedding"]
    assert result["n"] == 40 and result["classes"] == ["bright", "faint"]
    paths = pd.DataFrame(dict(path=table["path"], label=[1, 2, 1] * 16))
    paths.to_csv(tmp_path / "paths.csv", index=False)
    table = run("--which", "all", "--probe", tmp_path / "paths.csv")
    assert json.loads((Path(table.attrs["out"]) / "probe_all.json").read_text())["embedding"]["classes"] == [
        "1",
        "2",
    ]


@pytest.mark.parametrize(
    "content, column, message",
    [
        (None, "", "cannot be read as a CSV of labels"),
        ("", "", "cannot be read as a CSV of labels"),
        ("source,process\na,b\n", ":kind", "has no column 'kind'; it has source, process"),
        ("source,process\nnobody,constant\n", "", "none of its 1 values of 'source'"),
        (
            "source,process\n000000_00001,constant\n",
            "",
            "a probe needs two classes with at least 5 examples each",
        ),
        ("source,process\n", "", "none of its 0 values"),
    ],
)
def test_a_wrong_probe_is_one_line(run, tmp_path, content, column, message):
    if content is not None:
        (tmp_path / "L.csv").write_text(content)
    with pytest.raises(Mistake, match=message) as caught:
        run("--which", "all", "--probe", f"{tmp_path / 'L.csv'}{column}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--latent", "9"], "--latent: got 9, but the network was trained with 3"),
        (["--hidden", "64"], "--hidden: got 64, but the network was trained with 8"),
        (["--no_scatter"], "--scatter: got False, but the network was trained with True"),
        (["--data", ""], "--data is missing"),
        (["--data", "nowhere"], "'nowhere' does not exist"),
        (["--which", "validation"], "--which: got 'validation', expected one of"),
        (["--h5", "all"], "--h5: got 'all', expected"),
    ],
)
def test_a_contradiction_is_refused_with_both_values(run, options, message):
    with pytest.raises(Mistake, match=message) as caught:
        run(*options)
    assert "\n" not in str(caught.value)


def test_flags_that_agree_with_the_checkpoint_are_welcome(run):
    assert len(run("--latent", LATENT, "--hidden", 8, "--which", "val"))


def test_data_in_other_bands_are_refused(run, tmp_path):
    rows = [(f"star_{n}", float(t), 20.0, 0.1, band) for n in range(3) for t in range(5) for band in "gr"]
    pd.DataFrame(rows, columns=["id", "time", "mag", "magerr", "band"]).to_csv(
        tmp_path / "stars.csv", index=False
    )
    with pytest.raises(Mistake, match="bands g r, but the network was trained with 0.2-0.6 0.6-2.3 2.3-5"):
        run("--data", tmp_path / "stars.csv", "--which", "all")


def test_nothing_to_predict_is_one_line(run, survey):
    one = sorted(survey.rglob("*.fits"))[0]
    empty = {"train", "val", "test"} - set(run("--data", one, "--which", "all")["split"])
    for which in empty:
        with pytest.raises(
            Mistake, match=f"--which {which}: none of the 1 curves is in it and has 3 points or more"
        ):
            run("--data", one, "--which", which)


def test_an_interrupted_prediction_goes_on(run, trained, survey, tmp_path, monkeypatch):
    whole = run("--which", "all", "--batch_size", 8)
    monkeypatch.setattr("data.parts.PART", 16)
    real, calls = asked.embed, []

    def dying(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    argv = [
        "--model_path",
        str(trained / "best.pt"),
        "--store_dir",
        str(tmp_path / "stores"),
        "--device",
        "cpu",
        "--output_dir",
        str(tmp_path / "broken"),
        "--data",
        str(survey),
        "--which",
        "all",
        "--batch_size",
        "8",
    ]
    monkeypatch.setattr(asked, "embed", dying)
    with pytest.raises(KeyboardInterrupt):
        predict.main(argv)
    predict.main(argv)
    # one part of two batches was done; the rest is two parts of two
    assert len(calls) == 4 + 4
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "broken" / "embedding_all.parquet"),
        whole,
        check_exact=False,
        rtol=1e-4,
        atol=1e-5,
    )
    assert not list((tmp_path / "broken").glob("parts_*"))


def test_parts_of_other_data_are_not_taken_for_these(trained, survey, tmp_path, monkeypatch):
    """Interrupted, and the files are replaced by better ones: what was done of the old ones is not used."""
    shutil.copytree(survey, tmp_path / "D")
    monkeypatch.setattr("data.parts.PART", 16)
    argv = [
        "--model_path",
        str(trained / "best.pt"),
        "--store_dir",
        str(tmp_path / "stores"),
        "--device",
        "cpu",
        "--data",
        str(tmp_path / "D"),
        "--which",
        "all",
        "--batch_size",
        "16",
    ]
    real, calls = asked.embed, []

    def dying(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(asked, "embed", dying)
        with pytest.raises(KeyboardInterrupt):
            predict.main([*argv, "--output_dir", str(tmp_path / "broken")])
    for path in sorted((tmp_path / "D").rglob("*.fits"))[:16]:
        with fits.open(path) as hdus:
            hdus[1].data["COUNTS"][:] += 500
            content = fits.HDUList([hdu.copy() for hdu in hdus])
        content.writeto(path, overwrite=True)
    for name in ("broken", "whole"):
        predict.main([*argv, "--output_dir", str(tmp_path / name)])
    broken, whole = (
        pd.read_parquet(tmp_path / name / "embedding_all.parquet") for name in ("broken", "whole")
    )
    pd.testing.assert_frame_equal(broken, whole, check_exact=False, rtol=1e-4, atol=1e-5)


def test_max_samples_are_the_first_and_the_rest_has_no_embedding(run):
    whole, some = run("--which", "all"), run("--which", "all", "--max_samples", 7)
    done = some[some["reason"] == ""]
    pd.testing.assert_frame_equal(done, whole.iloc[:7], check_exact=False, rtol=1e-4, atol=1e-5)
    assert some.iloc[7:][NAMES[0]].isna().all(axis=None)


def test_curves_beyond_max_samples_keep_their_row(run):
    table = run("--which", "all", "--max_samples", 7)
    assert len(table) == 48 and (table["reason"].iloc[7:] == "beyond --max_samples").all()


# what one asks of an embedding ------------------------------------------------------------------------------


def test_the_csv_is_the_parquet_as_text_and_can_be_left_out(run):
    table = run("--which", "all")
    text = pd.read_csv(Path(table.attrs["out"]) / "embedding_all.csv", keep_default_na=False, na_values=[""])
    assert text.columns.tolist() == table.columns.tolist()
    numbers = table.select_dtypes("number").columns
    np.testing.assert_allclose(text[numbers].to_numpy(float), table[numbers].to_numpy(float), rtol=1e-6)
    assert text["source"].astype(str).tolist() == table["source"].tolist()
    table = run("--which", "val", "--no_csv")
    assert not (Path(table.attrs["out"]) / "embedding_val.csv").exists()


def test_neighbours_strangest_and_maps_are_written(run, survey, few_trees, capsys):
    source = pd.read_csv(survey / "labels.csv", dtype=str)["source"][3]
    labels = survey / "labels.csv"
    table = run(
        *("--which", "all", "--probe", labels, "--nearest", source, "--strangest", 7),
        *("--maps", "pca", "--named", "strangest", source),
    )
    out, said = Path(table.attrs["out"]), capsys.readouterr().out
    near = pd.read_csv(out / "nearest_all.csv")
    assert len(near) == 10 and near["distance"].is_monotonic_increasing and source not in set(near["source"])
    listed = pd.read_csv(out / "strangest_all.csv")
    order = table.sort_values("anomaly", ascending=False)["source"]
    assert listed["source"].tolist() == order[:7].tolist() and listed["rank"].tolist() == [*range(1, 8)]
    assert {"label", "worst_band", "worst_time", "deviance_0.6-2.3", "anomaly_by_hand", "stat_lag_1"} <= set(
        listed
    )
    assert (listed["worst_deviance"] > 0).all() and (listed["worst_time"] > 1e8).all()
    for name in ("strangest_all_1", "strangest_all_2", "map_pca_all"):
        assert (out / f"{name}.png").stat().st_size > 10_000 and (out / f"{name}.pdf").exists()
    places = pd.read_csv(out / "maps_all.csv")
    assert places["source"].tolist() == table["source"].tolist() and np.isfinite(places["pca_2"]).all()
    compared = json.loads((out / "scores_all.json").read_text())
    assert {"anomaly", "anomaly_by_hand", "shortfall"} <= compared.keys() and "auc_qpe" in compared["anomaly"]
    assert "the 7 strangest of 48 curves" in said and "the curves nearest in the latent space" in said


def test_a_source_that_is_not_there_is_refused_before_anything_is_predicted(run, monkeypatch):
    monkeypatch.setattr(asked, "embed", None)
    for flag in ("--nearest", "--named"):
        with pytest.raises(Mistake, match=f"{flag} 'nobody': no curve with an embedding is of this source"):
            run("--which", "all", flag, "nobody")


def test_the_calibration_is_in_the_checkpoint_and_without_it_the_curves_at_hand_serve(run, trained, capsys):
    saved = checkpoint.load(trained / "best.pt")
    assert saved["calibration"].keys() == {"training", "steady"}
    table = run("--which", "all")
    assert abs(table["anomaly"].median()) < 1 and "no calibration" not in capsys.readouterr().err
    last = run("--which", "all", "--model_path", trained / "last.pt")
    assert np.isfinite(last["anomaly"]).all() and abs(last["anomaly"].median()) < 1e-3
    assert "the checkpoint has no calibration" in capsys.readouterr().err


def test_constant_statistics_are_no_baseline(tmp_path):
    draw = np.random.default_rng(0)
    table = pd.DataFrame(draw.normal(size=(40, 3)), columns=["z_00", "z_01", "s_00"]).assign(s_00=1.0)
    table = table.assign(stat_hardness=0.0, stat_lag_1=np.nan, reason="")
    said = asked.probed(table, np.array(["a", "b"] * 20), tmp_path / "probe.json")
    assert "nine" not in json.loads((tmp_path / "probe.json").read_text())
    assert "left out: stat_hardness, stat_lag_1" in said and "statistics_by_band  " not in said


def stars_in(bands: str, path: Path, names=("star",)) -> Path:
    """Three stars a name and eight epochs, in AB magnitudes."""
    draw = np.random.default_rng(5)
    rows = [
        (f"{name}{n}", float(t), 20 + draw.normal(0, 0.3), 0.1, band)
        for name in names
        for n in range(8)
        for t in range(8)
        for band in bands
    ]
    pd.DataFrame(rows, columns=["id", "time", "mag", "magerr", "band"]).to_csv(path, index=False)
    return path


@pytest.fixture(scope="session")
def trained_on_stars(tmp_path_factory) -> Path:
    """The checkpoint of a network of g, r and i."""
    folder = tmp_path_factory.mktemp("stars")
    path = stars_in("gri", folder / "gri.csv", ("a", "b"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("utils.stop.signal.signal", lambda *_: None)
        options = "--hidden 4 --latent 2 --layers 1 --epochs 1 --plot_every 0 --device cpu --num_workers 0"
        places = f"--data {path} --store_dir {folder / 'stores'} --save_dir {folder / 'run'}"
        fractions = "--train_frac 0.6 --val_frac 0.2 --test_frac 0.2"
        train.main(f"--task light_curve {places} {options} {fractions}".split())
    return folder / "run" / "best.pt"


@pytest.fixture
def asked_of_stars(trained_on_stars, tmp_path):
    def asked(path, *more) -> pd.DataFrame:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        fixed = ["--model_path", trained_on_stars, "--store_dir", tmp_path / "stores", "--device", "cpu"]
        out = tmp_path / "out"
        options = [*fixed, "--data", path, "--which", "all", "--output_dir", out, "--num_workers", 0, *more]
        predict.main([str(option) for option in options])
        return pd.read_parquet(out / "embedding_all.parquet").set_index("source")

    return asked


def test_bands_of_a_prediction_go_by_name(asked_of_stars, tmp_path, capsys):
    """An absent band is not observed; one that the network does not know is left out, and both are said: the
    embedding is that of the shared bands alone.
    """
    table = asked_of_stars(stars_in("zgr", tmp_path / "zgr.csv"))
    said = capsys.readouterr()
    assert "not observed: i; not known to the network and left out: z" in said.out + said.err
    assert "values in bands that the network does not know (z), left out: 64 of 192" in said.out + said.err
    whole = pd.read_csv(tmp_path / "zgr.csv")
    whole[whole["band"] != "z"].to_csv(tmp_path / "gr.csv", index=False)
    shared = asked_of_stars(tmp_path / "gr.csv")
    latent = ["z_00", "z_01", "rate_g", "rate_r"]
    np.testing.assert_allclose(table[latent], shared[latent], rtol=1e-5)
    assert (table["rate_i"].fillna(0) == 0).all() and (table["points"] == 8).all()


def test_a_curve_without_a_band_of_the_network_says_so(asked_of_stars, tmp_path):
    both = pd.concat([pd.read_csv(stars_in(b, tmp_path / f"{b}.csv", (b,))) for b in ("r", "z")])
    both.to_csv(tmp_path / "both.csv", index=False)
    table = asked_of_stars(tmp_path / "both.csv")
    assert table.loc["r0", "reason"] == "" and np.isfinite(table.loc["r0", "z_00"])
    assert table.loc["z0", "reason"] == "no point in a band of the network (g r i)"


def test_rates_in_another_unit_are_refused_with_both(asked_of_stars, tmp_path):
    rows = pd.read_csv(stars_in("gri", tmp_path / "flux.csv")).rename(columns={"magerr": "flux_err"})
    rows = rows.rename(columns={"mag": "flux (erg/s/cm2)"})
    rows.to_csv(tmp_path / "flux.csv", index=False)
    with pytest.raises(Mistake, match=r"in erg/cm2/s, but those of training were in zero point 22\.5"):
        asked_of_stars(tmp_path / "flux.csv")


def test_names_that_a_spreadsheet_runs_are_refused_before_predicting_or_escaped(
    asked_of_stars, tmp_path, monkeypatch
):
    path = stars_in("gri", tmp_path / "run.csv", ("=cmd|x", "-5700"))
    with monkeypatch.context() as patch:
        patch.setattr(light_curve.asked, "embed", None)
        with pytest.raises(Mistake, match="8 ids cannot be written, first '=cmd.x0'"):
            asked_of_stars(path)
    more = ["--nearest", "=cmd|x0", "--strangest", "2", "--maps", "pca"]
    table = asked_of_stars(path, "--escape", *more)
    assert "=cmd|x0" in table.index  # as it is, where nothing runs it
    for name in ("embedding_all", "nearest_all", "maps_all"):
        text = pd.read_csv(tmp_path / "out" / f"{name}.csv", dtype=str)
        assert not text["source"].str.startswith("=").any() and (
            name != "nearest_all" or text["to"][0][0] == "'"
        )
    assert "-57000" in pd.read_csv(tmp_path / "out" / "embedding_all.csv", dtype=str)["source"].tolist()


# ---- from Python


@pytest.fixture
def network(trained):
    return load(trained / "best.pt", device="cpu")


def test_the_door_gives_predicts_table(network, run, spoiled, survey, capsys):
    """Of a folder, with files that cannot be read, and of curves in memory, a band of them absent."""
    folder, reasons = spoiled
    table = run("--data", folder, "--which", "all").set_index("path")
    capsys.readouterr()
    found = network.embed(folder, batch_size=7)
    assert "3 of 48 curves have no embedding" in capsys.readouterr().err
    assert found["path"].tolist() == sorted(table.index) and list(found) == ["path", *table.columns]
    pd.testing.assert_frame_equal(
        found.set_index("path"), table.loc[found["path"]], check_exact=False, rtol=1e-5, atol=1e-6
    )

    paths = sorted(survey.rglob("*.fits"))[3:9]
    curves = with_rates([one for path in paths for one in find_light_curves(str(path), Reading())])
    of_memory = network.embed(curves)
    columns = [name for name in found if name not in ("path", "split")]
    assert of_memory["source"].tolist() == [curve.source for curve in curves]
    same = found[columns].iloc[3:9].reset_index(drop=True)
    pd.testing.assert_frame_equal(of_memory[columns], same, rtol=1e-5)

    first = curves[0]
    fields = {name: getattr(first, name)[:, :2] for name in OF_BAND}
    hidden = first._replace(observed=first.observed & np.array([True, True, False]))
    absent = network.embed([first._replace(bands=first.bands[:2], **fields), hidden])
    columns = [name for name in absent if name != "source"]
    pd.testing.assert_series_equal(absent[columns].iloc[0], absent[columns].iloc[1], check_names=False)
    assert network.bands == first.bands and "0.2-0.6" in repr(network)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            dict(bands=("0.2-0.6", "0.6-2.3", "5-8")),
            "has the band 5-8, expected some of 0.2-0.6 0.6-2.3",
        ),
        (dict(bands=("0.2-0.6", "200-600 eV", "2.3-5")), "expected each once"),
        (dict(time=np.arange(3.0)), r"has the shape \[14\], expected \[3\]"),
        (dict(rate=np.ones((4, 3))), r"rate has the shape \[4, 3\]"),
        (dict(time=np.nan), "expected finite times .s. that rise"),
        (dict(error_up=0.0), "observed values have no finite rate with errors above zero"),
    ],
)
def test_curves_that_the_network_does_not_take(network, survey, change, message):
    path = sorted(survey.rglob("*.fits"))[0]
    (curve,) = with_rates(find_light_curves(str(path), Reading()))
    name, value = next(iter(change.items()))
    if isinstance(value, float):
        change = {name: np.full_like(getattr(curve, name), value)}
    with pytest.raises(Mistake, match=f"light curve 0 .*{message}"):
        network.embed([curve._replace(**change)])
