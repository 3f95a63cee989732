"""Every network of model.py through the lens task: trains in each mode that it declares, resumes to the bit,
predicts what it infers.
"""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from astropy.table import Table

import predict
import train
from contract import Objective
from model import MODELS, create_model
from physics.lens_parameters import GEOMETRY, QUANTITIES
from tasks import lens
from tasks.lens.losses import network_outputs
from tests.conftest import ROOT
from utils import checkpoint, config
from utils.config import recorded
from utils.mistake import Mistake

LENS = {name: spec for name, spec in MODELS.items() if spec.task == "lens"}
RUN = ["--device", "cpu", "--epochs", "2", "--batch_size", "16"]
OURS = [name for name in LENS if name != "timm"]
METADATA = ["--use_metadata", "--metadata_columns", "redshift", "ra", "dec", "magnitude_r"]


class Died(Exception):
    """The process is gone."""


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr("utils.stop.signal.signal", lambda *_: None)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    return str(tmp_path_factory.mktemp("stores"))


@pytest.fixture
def arguments(challenge, stores):
    def of(name: str, *options) -> list[str]:
        return [
            *RUN,
            "--data",
            str(challenge),
            "--store_dir",
            stores,
            "--band_mode",
            "stack",
            "--apply_normalization",
            "--clip_q",
            "-1",
            "--model",
            name,
            *MODELS[name].small,
            *map(str, options),
        ]

    return of


def config_of(argv: list[str]) -> lens.Config:
    return config.read_options(argv[len(RUN) :], lens.Config)[0]


def bits(folder) -> list[str]:
    return [
        checkpoint.digest(checkpoint.load(folder / name)[part])
        for name, part in (("last.pt", "state"), ("best.pt", "model"))
    ]


def options_for(name: str) -> list[str]:
    """Everything that the network supports at once."""
    return (METADATA if MODELS[name].metadata else []) + (
        ["--use_physics", "--regression", "Rein", "zlens"] if MODELS[name].physics else []
    )


@pytest.mark.parametrize("name", OURS)
def test_the_loss_is_one_finite_value_per_example_and_moves_with_it(name, arguments, tmp_path):
    torch.manual_seed(0)
    task = lens.build(config_of(arguments(name, *options_for(name))), tmp_path, 1)
    batch = task.data["train"].__getitems__(list(range(12)))
    task.model.eval()
    value = Objective(task.model, task.loss, torch.float32)(batch, 0).value
    assert value.shape == (12,) and value.isfinite().all() and value.dtype == torch.float32
    turned = torch.randperm(12)
    again = task.loss(task.model, {key: t[turned] for key, t in batch.items()}, 0).value
    torch.testing.assert_close(again, value[turned], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", OURS)
def test_a_killed_run_resumes_to_the_same_bits(name, arguments, tmp_path, monkeypatch):
    from data.cutouts import examples

    argv = arguments(name, *options_for(name), "--save_every", "1")
    train.main([*argv, "--save_dir", str(tmp_path / "whole")])
    real, calls = examples.Cutouts.__getitems__, []

    def dying(self, indices):
        calls.append(1)
        if len(calls) > 4:
            raise Died
        return real(self, indices)

    with monkeypatch.context() as patch:
        patch.setattr(examples.Cutouts, "__getitems__", dying)
        with pytest.raises(Died):
            train.main([*argv, "--save_dir", str(tmp_path / "killed")])
    before = checkpoint.load(tmp_path / "killed" / "last.pt")["state"]["progress"]["step"]
    train.main([*argv, "--save_dir", str(tmp_path / "killed")])
    after = checkpoint.load(tmp_path / "whole" / "last.pt")["state"]["progress"]["step"]
    assert 0 < before < after and bits(tmp_path / "killed") == bits(tmp_path / "whole")


@pytest.mark.parametrize("name", [name for name in OURS if MODELS[name].private])
def test_private_training_of_what_declares_it(name, arguments, tmp_path):
    """With metadata and inferred quantities, where the network takes them."""
    options = METADATA if MODELS[name].metadata else []
    options = [
        *options,
        "--regression",
        "Rein",
        "--mode",
        "customer_data",
        "--noise_multiplier",
        "1",
        "--target_delta",
        "1e-3",
    ]
    train.main([*arguments(name, *options), "--save_dir", str(tmp_path)])
    assert json.loads((tmp_path / "results.json").read_text())["last"]["epsilon"] > 0


def test_private_training_refuses_an_attack(arguments, tmp_path):
    with pytest.raises(Mistake, match="its loss calls it several times"):
        train.main(
            [
                *arguments(
                    "robust_resnet",
                    "--adversarial",
                    "l2",
                    "--mode",
                    "customer_data",
                    "--target_delta",
                    "1e-3",
                ),
                "--save_dir",
                str(tmp_path),
            ]
        )


@pytest.mark.parametrize("name", ["pinn_lens", "convnextv2"])
def test_what_is_inferred_is_predicted_for_every_file(name, arguments, challenge, stores, tmp_path):
    train.main(
        [*arguments(name, "--use_physics", "--regression", "Rein", "zlens"), "--save_dir", str(tmp_path)]
    )
    for tta in ([], ["--tta"]):
        predict.main(
            [
                "--model_path",
                str(tmp_path / "best.pt"),
                "--data",
                str(challenge),
                "--store_dir",
                stores,
                "--which",
                "test",
                "--output_dir",
                str(tmp_path / "pred"),
                "--device",
                "cpu",
                *tta,
            ]
        )
        table, prob = (pd.read_csv(tmp_path / "pred" / f"{kind}_test.csv") for kind in ("parameters", "pred"))
        assert table["path"].tolist() == prob["path"].tolist()
        found = table[["Rein", "Rein_err", "ell_m", "ell_m_PA", "sh", "srcx", "srcy", "zlens", "zlens_err"]]
        assert (
            np.isfinite(found.to_numpy()).all()
            and (table["Rein"] > 0).all()
            and table["ell_m_PA"].between(0, 180).all()
        )
    saved = checkpoint.load(tmp_path / "best.pt")
    assert (
        set(saved["calibration"]) == {"probability", "quantities"}
        and saved["calibration"]["quantities"]["Rein"] > 0
    )


def test_inferred_numbers_turn_with_the_image(arguments, tmp_path):
    """In training the image is turned at random, and what is inferred of it is turned back:
    of one image, the same in the mean.
    """
    torch.manual_seed(0)
    task = lens.build(config_of(arguments("robust_resnet", "--regression", "srcx", "ell_m")), tmp_path, 1)
    batch = task.data["train"].__getitems__([0, 1, 2])
    task.model.augment.noise = 0.0
    answers = [network_outputs(task.model.train(), batch)["mean"] for _ in range(64)]
    distinct = {tuple(answer[0].round(decimals=5).tolist()) for answer in answers}
    assert 1 < len(distinct) <= 8  # eight views of an image


@pytest.mark.parametrize(
    "flags",
    [["--degrade_noise", "3", "--degrade_seeing", "2"], ["--rotate", "0.75"]],
    ids=["degrade", "rotate"],
)
def test_images_are_changed_in_training_alone(arguments, tmp_path, flags):
    """In physical units, before preprocessing: the network of a trained checkpoint sees images as
    they are.
    """
    task = lens.build(config_of(arguments("robust_resnet", *flags, "--no_augment")), tmp_path, 1)
    batch, seen = task.data["train"].__getitems__(list(range(16))), []
    task.model.preprocess.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for training in (False, True):
        network_outputs(task.model.train(training), batch)
    assert torch.equal(seen[0], batch["image"])
    changed = (seen[1] != batch["image"]).flatten(1).any(1)
    assert 4 <= changed.sum() <= 16 and seen[1].isfinite().all()


def test_quantities_that_no_table_tells_are_named(arguments, tmp_path, capsys, monkeypatch):
    config = config_of(arguments("robust_resnet", "--regression", "Rein"))
    assert "not_learnt" not in lens.build(config, tmp_path, 1).record
    assert "no training lens tells" not in capsys.readouterr().out
    monkeypatch.setattr(
        "tasks.lens.inputs.truth.read_truth",
        lambda paths: pd.DataFrame(dict(object=pd.Series([], dtype=str))),
    )
    assert lens.build(config, tmp_path, 1).record["not_learnt"] == ["Rein"]
    assert (
        capsys.readouterr().out.count("no training lens tells of Rein, which predict.py will not write") == 1
    )


def without_columns(challenge, folder, *columns) -> list[str]:
    """The challenge's cutouts, linked, with tables that lack these columns; the flag that names them."""
    for bucket in ("slsim_lenses", "slsim_nonlenses", "hsc_lenses", "hsc_nonlenses"):
        (folder / bucket).mkdir(parents=True)
        for path in (challenge / bucket).glob("*_?.fits"):
            (folder / bucket / path.name).symlink_to(path)
        table = Table.read(challenge / bucket / "parameters.fits")
        table.remove_columns([name for name in columns if name in table.colnames])
        table.write(folder / bucket / "parameters.fits")
    return ["--data", str(folder)]


@pytest.mark.parametrize(
    "lacking, options, written, said",
    [
        ([], [], ["Rein", "zlens"], ""),
        (["zlens"], [], ["Rein"], "not in parameters_val.csv: zlens, which the network was to infer"),
        (["Rein", "zlens"], [], [], "no parameters_val.csv: Rein zlens, which the network was to infer"),
        # a lens model that is fitted to the images teaches the geometry without a table
        (["Rein", "zlens"], ["--use_physics"], GEOMETRY, "not in parameters_val.csv: zlens"),
    ],
)
def test_only_what_was_learnt_is_written(
    lacking, options, written, said, arguments, challenge, tmp_path, capsys
):
    data = without_columns(challenge, tmp_path / "D", *lacking)
    few = ["--take_train_frac=0.5", "--take_test_frac=0.3"]
    argv = arguments("robust_resnet", "--regression", "Rein", "zlens", *options, *data, *few)
    train.main([*argv, "--epochs", "1", "--save_dir", str(tmp_path / "run")])
    network = ["--model_path", str(tmp_path / "run" / "best.pt"), "--device", "cpu"]
    stores = argv[argv.index("--store_dir") :][:2]
    out = tmp_path / "pred" / "parameters_val.csv"
    out.parent.mkdir()
    out.write_text("path,Rein,Rein_err\n")  # of another network
    capsys.readouterr()
    predict.main([*network, *stores, *data, "--which", "val", "--output_dir", str(out.parent)])
    heard = capsys.readouterr().out
    assert said in heard and ("which the network was to infer" in heard) == bool(said)
    assert out.exists() == bool(written)
    if written:
        found = [name for name in pd.read_csv(out) if name in QUANTITIES]
        assert found == list(written)


def test_a_geometry_that_was_not_learnt_is_neither_written_nor_drawn(challenge, arguments, tmp_path):
    """pinn_lens fits a lens to each image, but only a table or --use_physics teaches it which."""
    pytest.importorskip("captum")
    data = without_columns(challenge, tmp_path / "D", "Rein", "ell_m")
    few = [f"--take_{which}_frac=0.3" for which in ("train", "val", "test")]
    argv = arguments("pinn_lens", *data, *few)
    train.main([*argv, "--epochs", "1", "--save_dir", str(tmp_path / "run")])
    network = ["--model_path", str(tmp_path / "run" / "best.pt"), "--device", "cpu"]
    stores = argv[argv.index("--store_dir") :][:2]
    out = ["--output_dir", str(tmp_path), "--max_samples", "4", "--explain", "1", "--which", "val"]
    predict.main([*network, *stores, *data, *out])
    table = pd.read_csv(tmp_path / "parameters_val.csv")
    assert "sh" in table and not {"Rein", "ell_m", "plausibility"} & set(table)
    assert not {"Rein", "plausibility"} & set(pd.read_csv(tmp_path / "explain_val.csv"))


def test_labels_of_one_domain_alone(arguments, tmp_path):
    """--label_domain: the others have no part in the loss, nor in what validation chooses."""
    task = lens.build(
        config_of(
            arguments(
                "robust_resnet",
                "--label_domain",
                "slsim",
                "--domain_adversarial",
                "--use_physics",
                "--regression",
                "zlens",
            )
        ),
        tmp_path,
        1,
    )
    batch = task.data["train"].__getitems__(list(range(len(task.data["train"]))))
    task.model.eval()
    value, terms, _ = task.loss(task.model, batch, 0)
    there = batch["domain"] == 0
    assert (terms["domain"] > 0).all()
    torch.testing.assert_close(value[~there], 0.1 / 1000 * terms["domain"][~there])
    with torch.no_grad():
        columns = task.measure(task.model, task.data["val"].__getitems__(list(range(len(task.data["val"])))))
    other = columns | dict(label=torch.where(columns["domain"] == 0, columns["label"], 1 - columns["label"]))
    assert task.summarise(other) == task.summarise(columns)


def test_features_of_confused_domains_get_the_opposite_gradient(arguments, tmp_path):
    task = lens.build(
        config_of(arguments("robust_resnet", "--domain_adversarial", "--no_augment")), tmp_path, 1
    )
    batch = task.data["train"].__getitems__(list(range(8)))
    model, seen = task.model.eval(), {}
    hook = model.domains.register_forward_pre_hook(lambda module, inputs: seen.update(features=inputs[0]))
    logit = network_outputs(model, batch)["domain_logit"]
    hook.remove()
    loss = torch.nn.functional.cross_entropy(logit, batch["domain"])
    (reversed_,) = torch.autograd.grad(loss, seen["features"], retain_graph=True)
    plain = torch.nn.functional.cross_entropy(
        model.domains.out(torch.nn.functional.gelu(model.domains.hidden(seen["features"]))), batch["domain"]
    )
    (direct,) = torch.autograd.grad(plain, seen["features"])
    torch.testing.assert_close(reversed_, -direct)


@pytest.mark.parametrize(
    "options,message",
    [
        (["--regression", "Reim"], "--regression: got 'Reim'"),
        (["--physics_terms", "lens_equatio"], "--physics_terms: got 'lens_equatio'"),
        (["--physics_terms", "lens_equation=x"], "expected a name, or name=weight"),
        (["--label_domain", "euclid"], "--label_domain"),
        (["--adversarial_share", "2"], "--adversarial_share: got 2, expected 0 to 1"),
        (["--model_kwargs", "widht=1"], "nearest: width"),
        (["--model_size", "19"], "expected one of 18, 34, 50"),
        (["--regression_weight", "-1"], "--regression_weight"),
        (["--domain_warmup", "0"], "--domain_warmup"),
    ],
)
def test_mistakes_are_one_line(options, message, arguments, tmp_path):
    with pytest.raises(Mistake, match=message) as caught:
        lens.build(config_of([*arguments("robust_resnet"), *options]), tmp_path, 1)
    assert "\n" not in str(caught.value)


def test_targets_are_of_lenses_alone(arguments, tmp_path):
    task = lens.build(
        config_of(arguments("robust_resnet", "--regression", "zlens", "mag_lens_i")), tmp_path, 1
    )
    batch = task.data["train"].__getitems__(list(range(len(task.data["train"]))))
    assert (batch["targets"].isfinite().all(1) == (batch["label"] > 0.5)).all()


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("bands,shape", [(1, (32, 32)), (5, (41, 41)), (3, (45, 64))])
def test_any_bands_and_any_size(name, bands, shape):
    options = {"size": MODELS[name].sizes[0]} if MODELS[name].sizes else {}
    network = create_model(name, in_chans=bands, **options).eval()
    with torch.no_grad():
        features = network.features(torch.randn(2, bands, *shape))
        assert features.shape == (2, network.feature_dim) and network.classify(features).shape == (2, 1)


def test_the_checkpoint_rebuilds_every_head(arguments, tmp_path):
    train.main(
        [
            *arguments("robust_resnet", "--use_physics", "--regression", "zsrc", "--domain_adversarial"),
            "--save_dir",
            str(tmp_path),
        ]
    )
    saved = checkpoint.load(tmp_path / "best.pt")
    model = lens.build_network(recorded(lens.Config, saved["record"]["options"]), 2)
    model.load_state_dict(saved["model"])
    assert model.quantities[-1] == "zsrc" and model.fit is not None and model.domains is not None


def test_two_ranks_equal_one(arguments, tmp_path):
    """With physics and quantities, of which non-lenses have none:
    every weight has a gradient on every rank.
    """
    import subprocess
    import sys

    from tests.promises.test_ranks import ENVIRONMENT, free_port

    script = ROOT / "train.py"
    argv = [
        *arguments("pinn_lens", "--use_physics", "--no_augment", "--drop_path", "0"),
        "--take_train_frac",
        "0.5",
    ]
    train.main([*argv, "--save_dir", str(tmp_path / "1")])
    subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc_per_node",
            "2",
            "--master_port",
            free_port(),
            str(script),
            *argv,
            "--save_dir",
            str(tmp_path / "2"),
        ],
        check=True,
        env=ENVIRONMENT,
        timeout=300,
        capture_output=True,
    )
    one, two = (checkpoint.load(tmp_path / str(ranks) / "last.pt")["state"]["model"] for ranks in (1, 2))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=2e-2, atol=2e-3)


def test_samples_of_the_posterior_are_predicted_with_their_parts(arguments, challenge, stores, tmp_path):
    """The same numbers again, whatever the batches were before; parts add up;
    one that has no posterior says so.
    """
    train.main([*arguments("bayesian_ensemble"), "--save_dir", str(tmp_path)])
    ask = [
        "--model_path",
        str(tmp_path / "best.pt"),
        "--data",
        str(challenge),
        "--store_dir",
        stores,
        "--which",
        "test",
        "--device",
        "cpu",
        "--samples",
        "5",
    ]
    tables = []
    for folder in ("a", "b"):
        torch.rand(7)
        predict.main([*ask, "--output_dir", str(tmp_path / folder)])
        tables.append(
            [pd.read_csv(tmp_path / folder / f"{kind}_test.csv") for kind in ("pred", "uncertainty")]
        )
    pd.testing.assert_frame_equal(tables[0][1], tables[1][1])
    pred, parts = tables[0]
    p = pred["prob"]
    np.testing.assert_allclose(parts["total"], -(p * np.log(p) + (1 - p) * np.log(1 - p)), rtol=1e-4)
    np.testing.assert_allclose(parts["aleatoric"] + parts["epistemic"], parts["total"], rtol=1e-5)
    assert (parts["epistemic"] > 0).all()
    train.main([*arguments("robust_resnet"), "--save_dir", str(tmp_path / "other")])
    with pytest.raises(Mistake, match="has no posterior"):
        predict.main(
            [
                *ask[2:],
                "--model_path",
                str(tmp_path / "other" / "best.pt"),
                "--output_dir",
                str(tmp_path / "c"),
            ]
        )


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_robust_accuracy_is_reported_beside_clean(norm, arguments, tmp_path):
    train.main(
        [
            *arguments("robust_resnet", "--adversarial", norm, "--adversarial_steps", "2"),
            "--save_dir",
            str(tmp_path),
        ]
    )
    log, results = (
        pd.read_csv(tmp_path / "training_log.csv"),
        json.loads((tmp_path / "results.json").read_text()),
    )
    assert {"val_acc", "val_robust_acc", "train_clean_loss", "train_adversarial_loss"} <= set(log)
    assert (log["train_adversarial_loss"] > log["train_clean_loss"]).all()
    assert all(results[split]["robust_acc"] <= results[split]["acc"] + 0.05 for split in ("val", "test"))
