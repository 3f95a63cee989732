"""The lens task: the promises of every task, and no leak between splits."""

import os
import shutil

import pandas as pd
import pytest
import torch

from contract import InPrecision, Objective
from tasks import lens
from tests.spoiled import spoil
from utils import checkpoint
from utils.config import recorded
from utils.mistake import Mistake


def build(challenge, tmp_path, **options):
    config = lens.Config(
        **dict(data=str(challenge), store_dir=str(tmp_path / "stores"), model_size="atto") | options
    )
    return lens.build(config, tmp_path, 1)


@pytest.fixture(params=["single", "stack"])
def task(request, challenge, tmp_path):
    return build(challenge, tmp_path, band_mode=request.param, apply_normalization=True)


def test_the_loss_is_one_finite_value_per_example_and_moves_with_it(task):
    batch = task.data["train"].__getitems__(list(range(12)))
    task.model.eval()
    value = Objective(task.model, task.loss, torch.float32)(batch, 0).value
    assert value.shape == (12,) and value.isfinite().all() and value.dtype == torch.float32
    turned = torch.randperm(12)
    again = task.loss(task.model, {name: t[turned] for name, t in batch.items()}, 0).value
    torch.testing.assert_close(again, value[turned], rtol=1e-5, atol=1e-6)  # no example sees another


def test_measures_do_not_depend_on_the_batch_size(task):
    task.model.eval()
    with torch.no_grad():
        whole = task.measure(task.model, task.data["test"].__getitems__(list(range(len(task.data["test"])))))
        alone = [
            task.measure(task.model, task.data["test"].__getitems__([i]))
            for i in range(len(task.data["test"]))
        ]
    torch.testing.assert_close(whole["prob"], torch.cat([one["prob"] for one in alone]), rtol=1e-5, atol=1e-6)


def test_preprocessing_stays_in_full_precision_under_bf16(task):
    task.model.eval()
    batch = task.data["train"].__getitems__([0, 1])
    seen = {}
    features = task.model.network.features
    task.model.network.features = lambda x: seen.update(x=x) or features(x)
    with torch.no_grad():
        InPrecision(task.model, torch.bfloat16)(batch["image"], batch["present"], batch["domain"])
    expected = task.model.preprocess(batch["image"], batch["present"], batch["domain"])
    assert seen["x"].dtype == torch.float32 and torch.equal(seen["x"], expected)


def test_bands_of_an_object_share_its_split_and_every_seed_shares_the_split(challenge, tmp_path):
    tables = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        (tmp_path / str(seed)).mkdir()
        build(challenge, tmp_path / str(seed))
        tables.append(pd.read_parquet(tmp_path / str(seed) / "split.parquet"))
    assert tables[0]["split"].equals(tables[1]["split"])
    assert (tables[0].groupby("object")["split"].nunique() == 1).all()
    assert set(tables[0]["split"]) == {"train", "val", "test"}


def test_training_and_validation_never_see_an_unlabelled_file(challenge, tmp_path):
    for path in (challenge / "test_dataset").glob("*.fits"):
        os.makedirs(tmp_path / "D" / "slsim_lenses", exist_ok=True)
        os.symlink(path, tmp_path / "D" / "slsim_lenses" / path.name)
    for bucket in ("slsim_nonlenses", "hsc_lenses", "hsc_nonlenses"):
        os.symlink(challenge / bucket, tmp_path / "D" / bucket)
    task = build(tmp_path / "D", tmp_path, band_mode="single", bands=["g", "r"])
    names = [
        name
        for split in ("train", "val", "test")
        for name in task.data[split].names(range(len(task.data[split])))
    ]
    assert names and not [name for name in names if name.startswith("object_")]


def test_training_goes_around_bad_files_and_names_them(challenge, tmp_path, monkeypatch, capsys):
    """Empty, truncated, NaN, wrong size, no FITS, and an id that is there twice."""
    import train

    monkeypatch.setattr("utils.stop.signal.signal", lambda *_: None)
    shutil.copytree(challenge, tmp_path / "D", ignore=shutil.ignore_patterns("test_dataset"))
    spoiled = spoil(tmp_path / "D" / "slsim_lenses")
    shutil.copy(
        tmp_path / "D/hsc_lenses/D2_L_00000003_g.fits", tmp_path / "D/hsc_nonlenses/D2_L_00000003_g.fits"
    )
    train.main(
        [
            "--data",
            str(tmp_path / "D"),
            "--store_dir",
            str(tmp_path / "stores"),
            "--save_dir",
            str(tmp_path / "run"),
            "--model_size",
            "atto",
            "--epochs",
            "1",
            "--batch_size",
            "32",
            "--device",
            "cpu",
        ]
    )
    index = pd.read_parquet(tmp_path / "run" / "split.parquet").set_index("path")
    assert all(word in index.loc[path, "reason"] for path, word in spoiled.items())
    assert (index["reason"] != "").sum() == len(spoiled)
    assert pd.read_csv(tmp_path / "run" / "duplicates.csv")["object"].tolist() == ["D2_L_00000003"] * 2
    assert "6 of them quarantined" in capsys.readouterr().out


def test_the_part_taken_is_of_objects_and_nested(challenge, tmp_path):
    few, more = (build(challenge, tmp_path, take_train_frac=part).data["train"] for part in (0.3, 0.6))
    assert set(few.object) < set(more.object)


@pytest.mark.parametrize(
    "options,message",
    [
        (dict(bands=["q"]), "--bands: 'q' is in no file name; there are g, r"),
        (dict(bands=["u"]), "--bands: 'u' is in no file name; there are g, r"),
        (dict(model_size="mega"), "nearest: "),
        (dict(model="resnet"), "unknown model 'resnet'"),
        (dict(drop_path=1.0), "--drop_path: got 1"),
        (dict(apply_padding=True, out_size_when_padded=32), "expected at least --image_size 41"),
        (dict(take_train_frac=1.5), "--take_train_frac: got 1.5, expected 0 to 1"),
        (dict(train_frac=0.9), "the sum must not exceed 1"),
        (
            dict(image_size=64),
            "--image_size 64: the images have 41x41 pixels .64 of 128 files.*nothing was packed: "
            ".*--image_size 41",
        ),
        (dict(smoothing_mode="psf"), "psf smoothing"),
        (dict(model_kwargs=["x"]), "expected key=value"),
        (dict(slsim_lenses_list="a", slsim_lenses="b"), "give one of them"),
    ],
)
def test_mistakes_are_one_line(challenge, tmp_path, options, message):
    with pytest.raises(Mistake, match=message) as caught:
        build(challenge, tmp_path, **options)
    assert "\n" not in str(caught.value)


def test_the_checkpoint_rebuilds_the_network_with_its_preprocessing(trained):
    saved = checkpoint.load(trained["single"] / "best.pt")
    config = recorded(lens.Config, saved["record"]["options"])
    model = lens.build_network(config, 1)
    model.load_state_dict(saved["model"])
    assert model.preprocess.smoothing == "gaussian" and model.preprocess.normalise


def test_the_training_log_has_the_columns_of_the_request(trained):
    header = (trained["single"] / "training_log.csv").read_text().splitlines()[0]
    assert header == "epoch,train_loss,train_acc,val_loss,val_acc,val_auc,lr"


def test_tensorboard_has_curves_histograms_and_mosaics(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tags = EventAccumulator(str(trained["stack"]), size_guidance=dict(tensors=0)).Reload().Tags()
    assert "val/precision_recall" in tags["tensors"]
    assert {
        f"val/score_{domain}_{kind}" for domain in ("slsim", "hsc") for kind in ("lenses", "nonlenses")
    } & set(tags["histograms"])
    assert {"val/false_positives", "val/false_negatives"} & set(tags["images"])
