"""Few lenses among many others: every split has some, they are weighed or drawn more often, and it is
said.
"""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from astropy.io import fits

import convert
import train
from contract import Objective
from data.cutouts import store
from tasks import lens
from tasks.lens import inputs
from tasks.lens.losses import class_weights, network_outputs
from losses.classification import binary_cross_entropy
from utils import checkpoint, config
from utils.mistake import Mistake

RUN = ["--device", "cpu", "--epochs", "2", "--batch_size", "16", "--ema_decay", "0"]


class Died(Exception):
    """The process is gone."""


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr("utils.stop.signal.signal", lambda *_: None)
    monkeypatch.setattr("utils.plots.save_figure", lambda *_: None)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """5 lenses and 40 others, in one band."""
    folder = tmp_path_factory.mktemp("few")
    rng = np.random.default_rng(4)
    for bucket, count in (("slsim_lenses", 5), ("slsim_nonlenses", 40)):
        (folder / "D" / bucket).mkdir(parents=True)
        for number in range(count):
            pixels = rng.normal(size=(41, 41)).astype("f4")
            fits.PrimaryHDU(pixels).writeto(folder / "D" / bucket / f"{bucket}_{number:03d}_g.fits")
    return folder


def arguments(few, *options):
    argv = ["--data", str(few / "D"), "--store_dir", str(few / "stores"), "--model", "robust_resnet"]
    return [*argv, "--model_size", "18", "--model_kwargs", "width=0.125", "--drop_path", "0", *options]


def built(few, tmp_path, *options):
    return lens.build(config.read_options(arguments(few, *options), lens.Config)[0], tmp_path, 1)


def test_every_split_has_lenses_and_it_is_said(few, tmp_path, capsys):
    said = []
    for seed in range(6):
        task = built(few, tmp_path, "--split_seed", str(seed))
        assert all(set(task.data[name].label.tolist()) == {0, 1} for name in ("train", "val", "test"))
        said.append("only 5 objects or groups of lenses" in capsys.readouterr().out)
    assert any(said) and not all(said)


def test_a_test_split_of_one_class_is_said_at_the_start(few, tmp_path, capsys):
    built(few, tmp_path, "--take_test_frac", "0.1")
    assert "the test split holds 1 examples, all non-lenses: its AUC" in capsys.readouterr().err


def test_what_is_not_defined_is_no_number():
    results = dict(val=dict(auc=0.75, loss=0.5), test=dict(auc=float("nan"), loss=0.6))
    assert train.shown(results, ["auc", "loss"]) == (
        "val_auc 0.7500  val_loss 0.5000  test_auc not defined  test_loss 0.6000"
    )


@pytest.mark.parametrize("choice", ["none", "balanced", "7.5"])
def test_weights_of_the_classes(few, tmp_path, choice):
    """Against the definition of `balanced` in scikit-learn."""
    from sklearn.utils.class_weight import compute_class_weight

    task = built(few, tmp_path, "--class_weight", choice, "--no_augment")
    data = task.data["train"]
    batch = data.__getitems__(range(len(data)))
    task.model.eval()
    logit = network_outputs(task.model, batch)["logit"]
    weight = dict(
        none=[1, 1], balanced=compute_class_weight("balanced", classes=np.array([0.0, 1.0]), y=data.label)
    )
    of_class = torch.tensor(np.asarray(weight.get(choice, [1, 7.5]), np.float32))
    expected = binary_cross_entropy(logit, batch["label"]) * of_class[batch["label"].long()]
    found = Objective(task.model, task.loss, torch.float32)(batch, 0).value
    torch.testing.assert_close(found, expected)


def test_weights_count_those_whose_label_is_told():
    label, domain = np.array([1, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 0, 1, 1])
    told = lens.Config(class_weight="balanced", label_domain="slsim")
    assert class_weights(told, label, domain) == pytest.approx((4 / 6, 4 / 2))
    with pytest.raises(Mistake, match="has 2 lenses and 0 non-lenses, expected both"):
        class_weights(lens.Config(class_weight="balanced", label_domain="hsc"), label, domain)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(class_weight="heavy"), "--class_weight: got 'heavy', expected none, balanced, or the weight"),
        (dict(class_weight="-1"), "--class_weight: got '-1'"),
        (dict(class_weight="nan"), "--class_weight: got 'nan'"),
        (dict(class_weight="balanced", balance=True), "each gives both classes one weight, give one"),
    ],
)
def test_weights_that_cannot_be(options, message):
    with pytest.raises(Mistake, match=message):
        lens.Config(**options)


def test_a_weight_is_a_number_or_a_word_on_the_command_line_and_in_a_recipe(tmp_path):
    (tmp_path / "r.yaml").write_text("class_weight: 10")
    for flags, weight in (
        (["--config", str(tmp_path / "r.yaml")], 10.0),
        (["--class_weight", "0.5"], 0.5),
        (["--class_weight", "balanced"], "balanced"),
        ([], "none"),
    ):
        assert config.read_options(flags, lens.Config)[0].class_weight == weight
    with pytest.raises(
        Mistake, match="--class_weight: got 'heavy', expected a number or one of none, balanced"
    ):
        config.read_options(["--class_weight", "heavy"], lens.Config)


def test_balanced_training_is_said_checked_and_resumes_to_the_bit(few, tmp_path, capsys, monkeypatch):
    from data.cutouts.examples import Cutouts

    argv = [*RUN, *arguments(few, "--balance", "--save_every", "1", "--epochs", "1")]
    train.main([*argv, "--save_dir", str(tmp_path / "whole")])
    told = capsys.readouterr()
    assert "drawn as often as each other (--balance)" in told.err
    assert "saw each example as often as it was due" in (tmp_path / "whole" / "train.log").read_text()

    real, calls = Cutouts.__getitems__, []

    def dying(self, indices):
        calls.append(1)
        if len(calls) > 2:
            raise Died
        return real(self, indices)

    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(Cutouts, "__getitems__", dying)
        train.main([*argv, "--save_dir", str(tmp_path / "killed")])
    train.main([*argv, "--save_dir", str(tmp_path / "killed")])
    whole, killed = (checkpoint.load(tmp_path / name / "last.pt")["state"] for name in ("whole", "killed"))
    assert all(torch.equal(whole["model"][key], killed["model"][key]) for key in whole["model"])


def test_balance_is_refused_where_the_mode_draws_for_itself(few, tmp_path):
    argv = [*RUN, *arguments(few, "--balance", "--save_dir", str(tmp_path / "r"), "--mode", "customer_data")]
    with pytest.raises(
        Mistake, match="--balance: some examples would be drawn more often than others"
    ) as told:
        train.main(argv)
    assert "\n" not in str(told.value)


def test_labels_of_none_or_of_one_class(few, tmp_path):
    with pytest.raises(Mistake, match="labels of one class: each labelled image of the files is a lens"):
        lens.build(
            lens.Config(slsim_lenses=str(few / "D" / "slsim_lenses"), store_dir=str(tmp_path)), tmp_path, 1
        )


@pytest.fixture(scope="module")
def duplicated(tmp_path_factory):
    """A store of 60 galaxies: each has a namesake at its place, and ten others are copies by their group."""
    folder = tmp_path_factory.mktemp("duplicated")
    rng = np.random.default_rng(4)
    rows = ["name; RA ; DEC;label;group"]
    (folder / "images").mkdir()
    for number in range(60):
        fits.PrimaryHDU(rng.normal(size=(12, 12)).astype("f4")).writeto(
            folder / "images" / f"o{number:02d}_g.fits"
        )
        place = number // 2 if number < 50 else number
        group = "painted" if number >= 50 else ""
        rows.append(f"o{number:02d};{10 + place}.00{number % 2}e0;-5;{place % 2}.00;{group}")
    (folder / "t.txt").write_text("\n".join(rows))
    convert.main(
        [
            "fits",
            "--input",
            str(folder / "images"),
            "--table",
            str(folder / "t.txt"),
            "--columns",
            "object=name",
        ]
        + ["--output", str(folder / "store")]
    )
    return folder / "store"


def test_what_is_one_galaxy_is_in_one_split_of_a_store(duplicated, tmp_path, capsys):
    """0.001 degrees of RA at Dec -5 are 3.6 arcsec."""
    flags = ["--store", str(duplicated), "--image_size", "12", "--model", "robust_resnet"]
    flags += ["--model_size", "18", "--model_kwargs", "width=0.125", "--match_radius", "4"]
    found = config.read_options(flags, lens.Config)[0]
    task = lens.build(found, tmp_path, 1)
    told = capsys.readouterr().out
    assert "groups: 10 objects in 1 groups, each in one split" in told
    assert "within 4 arcsec of another under another id: 50, in 25 groups of up to 2" in told
    where = {name: split for split in task.data for name in task.data[split].object}
    assert len(where) == 60 and len({where[f"o{number}"] for number in range(50, 60)}) == 1
    assert all(where[f"o{number:02d}"] == where[f"o{number + 1:02d}"] for number in range(0, 50, 2))

    # predict is told by the checkpoint, and says what it leaves out
    index = inputs.split_index(store.open_store(duplicated).index, found, None, task.record)
    group = pd.read_parquet(tmp_path / "split.parquet").set_index("object")["split"]
    assert index.set_index("object")["split"][:50].equals(group[:50])
    lens.build(dataclasses.replace(found, match_radius=0), tmp_path, 1)
    assert "under another id" not in capsys.readouterr().out


def test_a_store_without_labels_says_so(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).normal(size=(12, 12)).astype("f4")
        fits.PrimaryHDU(pixels).writeto(tmp_path / "images" / f"o{number}_g.fits")
    convert.main(["fits", "--input", str(tmp_path / "images"), "--output", str(tmp_path / "store")])
    with pytest.raises(Mistake, match="^no labels: none of the 3 images of --store .*--columns label=NAME"):
        lens.build(lens.Config(store=str(tmp_path / "store"), image_size=12), tmp_path, 1)


def test_balance_needs_a_store():
    with pytest.raises(Mistake, match="--stream 'shards' and --balance: not together; pack the shards"):
        inputs.from_stream(lens.Config(stream="shards", balance=True))
