"""One row for each input file, whatever happens; the checkpoint decides, and a flag may not contradict it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from astropy.io import fits

from tasks.lens import asked
import predict
from tests.conftest import ROOT
from tests.promises.test_ranks import ENVIRONMENT, free_port
from tests.spoiled import spoil
from trained import load_weights
from utils.mistake import Mistake

COLUMNS = ["path", "domain", "label", "prob", "pred"]


@pytest.fixture
def run(tmp_path):
    def run(run_dir, *options) -> pd.DataFrame:
        out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
        predict.main(
            [
                "--model_path",
                str(run_dir / "best.pt"),
                "--store_dir",
                str(tmp_path / "stores"),
                "--device",
                "cpu",
                "--output_dir",
                str(out),
                *map(str, options),
            ]
        )
        which = options[options.index("--which") + 1] if "--which" in options else "test"
        table = pd.read_csv(out / f"pred_{which}.csv")
        table.attrs["out"] = out
        assert table.columns.tolist() == COLUMNS
        return table

    return run


def test_one_row_a_file_in_input_order(run, trained, challenge):
    table = run(trained["single"], "--data", challenge, "--which", "all")
    expected = [
        str(path)
        for bucket in ("slsim_lenses", "slsim_nonlenses", "hsc_lenses", "hsc_nonlenses")
        for path in sorted((challenge / bucket).glob("*_?.fits"))
    ]
    assert table["path"].tolist() == expected and table["prob"].between(0, 1).all()
    assert (table["label"] == table["path"].str.contains("_L_")).all() and set(table["domain"]) == {
        "slsim",
        "hsc",
    }
    assert ((table["prob"] >= 0.5) == table["pred"]).all()
    np.testing.assert_array_equal(
        np.load(table.attrs["out"] / "probs_all.npy"), table["prob"].to_numpy(np.float32)
    )
    np.testing.assert_array_equal(np.load(table.attrs["out"] / "preds_all.npy"), table["pred"])
    np.testing.assert_array_equal(np.load(table.attrs["out"] / "labels_all.npy"), table["label"])


def test_splits_are_those_of_training_and_cover_everything(run, trained, challenge, capsys):
    parts = {
        which: set(run(trained["single"], "--data", challenge, "--which", which)["path"])
        for which in ("train", "val", "test")
    }
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 128
    told = [line for line in capsys.readouterr().err.splitlines() if "--which" in line]
    counts = {which: len(paths) for which, paths in parts.items()}
    assert f"--which test: {counts['test']} of 128 files; left out: {counts['train']} train, " in told[2]
    split = pd.read_parquet(trained["single"] / "split.parquet")
    assert {which: set(split["path"][split["split"] == which]) for which in parts} == parts


def test_stacked_bands_share_the_probability_of_their_object(run, trained, challenge):
    table = run(trained["stack"], "--data", challenge, "--which", "all")
    by_object = table.groupby(table["path"].str.slice(stop=-7))["prob"]
    assert len(table) == 128 and (by_object.nunique() == 1).all() and by_object.ngroups == 64


def test_the_probability_is_the_networks(run, trained, challenge):
    table = run(trained["single"], "--data", challenge, "--which", "val", "--batch_size", "7")
    from tasks import lens
    from utils import checkpoint, config

    saved = checkpoint.load(trained["single"] / "best.pt")
    task = config.recorded(lens.Config, saved["record"]["options"])
    model = load_weights(lens.build_network(task, 1), saved, torch.device("cpu"))
    for path, prob in table[["path", "prob"]].head(3).itertuples(index=False):
        with fits.open(path) as hdus:
            image = torch.tensor(hdus[1].data[0][1].astype(np.float32))[None, None]
        with torch.no_grad():
            logit = model(image, torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, dtype=torch.int64))[
                "logit"
            ]
        assert prob == pytest.approx(logit.sigmoid().item(), abs=1e-5)


def test_compiled_it_answers_the_same(run, trained, challenge):
    arguments = trained["single"], "--data", challenge, "--which", "val"
    np.testing.assert_allclose(run(*arguments, "--compile")["prob"], run(*arguments)["prob"], atol=1e-5)


def test_unlabelled_images_need_no_buckets(run, trained, challenge):
    for which in ("test", "blind", "all"):
        table = run(trained["single"], "--images", challenge / "test_dataset", "--which", which)
        assert len(table) == 16 and table["label"].isna().all() and table["prob"].notna().all()


def test_four_buckets_of_symlinks_predict_each_blind_file_once(run, trained, challenge, tmp_path):
    """The request's own way: every file linked, some from several buckets."""
    files = sorted((challenge / "test_dataset").glob("*.fits"))
    buckets = {}
    for number, bucket in enumerate(("slsim_lenses", "slsim_nonlenses", "hsc_lenses", "hsc_nonlenses")):
        (tmp_path / "buckets" / bucket).mkdir(parents=True)
        buckets[bucket] = tmp_path / "buckets" / bucket
        for path in files[number * 4 : number * 4 + 8]:
            os.symlink(path, buckets[bucket] / path.name)
    flags = [part for bucket, folder in buckets.items() for part in (f"--{bucket}", folder)]
    table = run(trained["single"], *flags, "--which", "test")
    assert sorted(Path(path).name for path in table["path"]) == [path.name for path in files]
    assert table["label"].isna().all() and table["prob"].notna().all()


def test_bad_files_keep_their_row_and_get_a_reason(run, trained, challenge, tmp_path):
    shutil.copytree(challenge, tmp_path / "D", ignore=shutil.ignore_patterns("test_dataset"))
    spoiled = spoil(tmp_path / "D" / "hsc_lenses")
    table = run(trained["single"], "--data", tmp_path / "D", "--which", "all")
    bad = table[table["prob"].isna()]
    assert len(table) == 128 and set(bad["path"]) == set(spoiled) and bad["pred"].isna().all()
    reasons = pd.read_csv(table.attrs["out"] / "quarantine_all.csv").set_index("path")["reason"]
    assert all(word in reasons[path] for path, word in spoiled.items())
    zeroed = run(trained["single"], "--data", tmp_path / "D", "--which", "all", "--quarantined", "nonlens")
    assert (zeroed.loc[zeroed["path"].isin(spoiled), ["prob", "pred"]] == 0).all(axis=None)


@pytest.mark.parametrize("mode", ["single", "stack"])
def test_an_object_has_one_row_whatever_its_files_are(run, trained, challenge, tmp_path, mode):
    """Three of a bucket cannot be read, one in one of its bands; the challenge's table has their places."""
    shutil.copytree(challenge, tmp_path / "D", ignore=shutil.ignore_patterns("test_dataset"))
    spoil(tmp_path / "D" / "hsc_lenses")
    half = sorted((tmp_path / "D" / "hsc_lenses").glob("*_r.fits"))[-1]
    half.write_bytes(b"")
    table = run(trained[mode], "--data", tmp_path / "D", "--which", "all")
    out = table.attrs["out"]
    files, objects = (pd.read_csv(out / f"{kind}_all.csv") for kind in ("files", "objects"))
    assert len(objects) == 64 and objects["object"].tolist() == files["object"].unique().tolist()
    whole = objects.set_index("object")
    lost = whole[whole["prob"].isna()]
    assert len(lost) == 3 and lost["reason"].notna().all() and whole["reason"].notna().sum() == 3
    assert lost["bands"].isna().all() and (whole["bands"].drop(lost.index).value_counts()["g r"] == 60)
    assert whole.loc[half.name.removesuffix("_r.fits"), "bands"] == "g"
    mean = table["prob"].groupby(files["object"]).mean()[whole.index]
    np.testing.assert_allclose(whole["prob"], mean, rtol=1e-6)
    for bucket in ("hsc_lenses", "slsim_nonlenses"):
        with fits.open(tmp_path / "D" / bucket / "parameters.fits") as hdus:
            rows = hdus[1].data
            ids = [str(name).strip() for name in rows[rows.names[0]]]
            for ours, theirs in (("ra", "RA"), ("dec", "Dec")):
                np.testing.assert_array_equal(whole.loc[ids, ours], rows[theirs].astype(float))
    some = run(trained[mode], "--data", tmp_path / "D", "--which", "all", "--max_samples", "10")
    objects = pd.read_csv(some.attrs["out"] / "objects_all.csv")
    assert len(objects) == 64 and (objects["reason"] == "beyond --max_samples").sum() >= 45


def test_a_table_of_places_that_cannot_be_read_is_said(run, trained, challenge, tmp_path, capsys):
    shutil.copytree(challenge, tmp_path / "D", ignore=shutil.ignore_patterns("test_dataset"))
    (tmp_path / "D" / "hsc_lenses" / "parameters.fits").write_text("no table")
    table = run(trained["stack"], "--data", tmp_path / "D", "--which", "val")
    assert "ra and dec are empty: " in capsys.readouterr().out
    objects = pd.read_csv(table.attrs["out"] / "objects_val.csv")
    assert objects["ra"].isna().all() and len(objects) * 2 == len(table)


def test_the_symmetries_average_to_a_prediction_that_turning_does_not_change(
    run, trained, challenge, tmp_path
):
    table = run(trained["single"], "--images", challenge / "test_dataset", "--tta")
    (tmp_path / "turned").mkdir()
    for path in (challenge / "test_dataset").glob("*.fits"):
        with fits.open(path) as hdus:
            fits.PrimaryHDU(np.rot90(hdus[0].data).copy()).writeto(tmp_path / "turned" / path.name)
    turned = run(trained["single"], "--images", tmp_path / "turned", "--tta")
    plain = run(trained["single"], "--images", tmp_path / "turned")
    np.testing.assert_allclose(turned["prob"], table["prob"], atol=1e-5)
    assert np.abs(plain["prob"] - table["prob"]).max() > 1e-4


def test_an_interrupted_prediction_goes_on(run, trained, challenge, tmp_path, monkeypatch):
    whole = run(trained["single"], "--data", challenge, "--which", "all", "--batch_size", "16")
    monkeypatch.setattr("data.parts.PART", 32)
    real, calls = asked.answer_batch, []

    def dying(*arguments):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(*arguments)

    argv = [
        "--model_path",
        str(trained["single"] / "best.pt"),
        "--store_dir",
        str(tmp_path / "stores"),
        "--device",
        "cpu",
        "--output_dir",
        str(tmp_path / "broken"),
        "--data",
        str(challenge),
        "--which",
        "all",
        "--batch_size",
        "16",
    ]
    monkeypatch.setattr(asked, "answer_batch", dying)
    with pytest.raises(KeyboardInterrupt):
        predict.main(argv)
    predict.main(argv)
    # 2 parts of 2 batches were done; the rest is 2 parts of 2
    assert len(calls) == 6 + 4
    again = pd.read_csv(tmp_path / "broken" / "pred_all.csv")
    pd.testing.assert_frame_equal(again, whole, check_exact=False, rtol=1e-5)
    assert not list((tmp_path / "broken").glob("parts_*"))


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux says what is resident")
def test_pixels_that_were_read_are_let_go(run, trained, challenge, monkeypatch):
    """Else the memory of a job grows by all of its store, which schedulers count."""
    real, resident = asked.answer_batch, []

    def looking(*arguments):
        for mapping in Path("/proc/self/smaps").read_text().split("VmFlags")[:-1]:
            resident.extend(
                line.split()[1]
                for line in mapping.splitlines()
                if "pixels.npy" in mapping and line.startswith("Rss:")
            )
        return real(*arguments)

    monkeypatch.setattr(asked, "answer_batch", looking)
    run(trained["single"], "--data", challenge, "--which", "all", "--batch_size", "16")
    assert len(resident) >= 8 and set(resident) == {"0"}


def test_two_ranks_write_what_one_writes(run, trained, challenge, tmp_path):
    whole = run(trained["single"], "--data", challenge, "--which", "val")
    argv = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        free_port(),
        str(ROOT / "predict.py"),
        "--model_path",
        str(trained["single"] / "best.pt"),
        "--store_dir",
        str(tmp_path / "stores"),
        "--device",
        "cpu",
        "--output_dir",
        str(tmp_path / "two"),
        "--data",
        str(challenge),
        "--which",
        "val",
    ]
    subprocess.run(argv, check=True, env=ENVIRONMENT, timeout=120, capture_output=True)
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "two" / "pred_val.csv"), whole, check_exact=False, rtol=1e-5
    )


@pytest.mark.parametrize(
    "options,message",
    [
        (["--gaussian_sigma", "0.8"], "--gaussian_sigma: got 0.8, but the network was trained with 1.0"),
        (["--model_size", "nano"], "--model_size: got 'nano', but the network was trained with 'atto'"),
        (["--no_apply_normalization"], "--apply_normalization: got False"),
        (["--which", "validation"], "--which: got 'validation', expected one of"),
        (["--model_path", "nowhere.pt"], "there is no file 'nowhere.pt'"),
        (["--images", "nowhere", "--data", "x"], "nowhere|'x' is not a folder"),
    ],
)
def test_a_contradiction_is_refused_with_both_values(run, trained, challenge, options, message):
    with pytest.raises(Mistake, match=message):
        run(trained["single"], *(["--data", challenge] if "--data" not in options else []), *options)


def test_flags_that_agree_with_the_checkpoint_are_welcome(run, trained, challenge):
    """As the request writes them."""
    table = run(
        trained["single"],
        "--data",
        challenge,
        "--which",
        "val",
        "--model_size",
        "atto",
        "--drop_path",
        "0.1",
        "--apply_normalization",
        "--smoothing_mode",
        "gaussian",
        "--gaussian_sigma",
        "1.0",
        "--num_workers",
        "1",
    )
    assert len(table)
