"""From a catalogue to a trained network: convert, train on the store with metadata and quality weights,
resume, predict, report.
"""

import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import convert
import evaluate
import predict
import train
from data.cutouts import quality_table, store
from models.layers.metadata import MetadataTerm
from tests.conftest import ROOT
from tests.data.catalogues import test_galaxiesml
from utils import checkpoint
from utils.mistake import Mistake

OBJECTS = 60


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Galaxies with labels that follow their redshift alone: the pixels are noise."""
    folder = tmp_path_factory.mktemp("catalogue")
    label = np.arange(OBJECTS) % 2
    columns = test_galaxiesml.columns(OBJECTS) | dict(
        specz_redshift=0.2 + 0.5 * label + 0.01 * np.random.default_rng(1).random(OBJECTS), labels=label
    )
    file = (
        test_galaxiesml.write(folder / "g.hdf5", test_galaxiesml.images(OBJECTS, side=32), **columns)
        or folder / "g.hdf5"
    )
    convert.main(["galaxiesml", "--input", str(file), "--output", str(folder / "store"), "--preview", "4"])
    return folder / "store"


def arguments(converted, save_dir, *options):
    return [
        "--store",
        str(converted),
        "--image_size",
        "32",
        "--band_mode",
        "stack",
        "--model_size",
        "atto",
        "--epochs",
        "10",
        "--batch_size",
        "16",
        "--apply_normalization",
        "--device",
        "cpu",
        "--save_dir",
        str(save_dir),
        "--lr",
        "3e-3",
        "--patience",
        "0",
        "--use_metadata",
        *options,
    ]


def test_metadata_tell_what_pixels_do_not_and_a_run_resumes_to_the_bit(converted, tmp_path, monkeypatch):
    train.main(
        arguments(
            converted,
            tmp_path / "whole",
            "--metadata_columns",
            "redshift",
            "sersic_index",
            "--quality_weight",
            "--max_time",
            "0:10:0",
        )
    )
    state = checkpoint.load(tmp_path / "whole" / "last.pt")["state"]
    history = state["progress"]["history"]
    # chance is log 2
    assert history[-1]["val_loss"] < history[0]["val_loss"] and history[-1]["val_loss"] < np.log(2) - 0.05
    term = {name: tensor for name, tensor in state["model"].items() if name.startswith("metadata.")}
    assert torch.isfinite(term["metadata.mean"]).all() and abs(term["metadata.mean"][0] - 0.455) < 0.1
    real = train.Progress.add

    def dying(self, *rest):
        real(self, *rest)
        if self.step == 11:
            raise KeyboardInterrupt

    options = [
        "--metadata_columns",
        "redshift",
        "sersic_index",
        "--quality_weight",
        "--save_every",
        "2",
        "--max_time",
        "0:10:0",
    ]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train.Progress, "add", dying)
        train.main(arguments(converted, tmp_path / "broken", *options))
    train.main(arguments(converted, tmp_path / "broken", *options))
    assert checkpoint.digest(checkpoint.load(tmp_path / "broken" / "last.pt")["state"]) == checkpoint.digest(
        state
    )
    predict.main(
        [
            "--model_path",
            str(tmp_path / "whole" / "best.pt"),
            "--store",
            str(converted),
            "--which",
            "all",
            "--device",
            "cpu",
            "--output_dir",
            str(tmp_path / "pred"),
        ]
    )
    assert len(pd.read_csv(tmp_path / "pred" / "pred_all.csv")) == 5 * OBJECTS


def test_weights_are_of_good_images_and_found_again(converted):
    packed = store.open_store(converted)
    table = quality_table.quality_of(packed, print)
    assert len(table) == 5 * OBJECTS and (table["weight"][packed.good] > 0).all()
    before = (converted / quality_table.NAME).stat().st_mtime_ns
    pd.testing.assert_frame_equal(quality_table.quality_of(packed, print), table)
    assert (converted / quality_table.NAME).stat().st_mtime_ns == before
    (converted / quality_table.NAME).write_bytes(b"not a table")
    pd.testing.assert_frame_equal(quality_table.quality_of(packed, print), table)


def test_a_weight_multiplies_the_loss_of_its_example(converted, tmp_path):
    from tasks import lens

    config = lens.Config(
        store=str(converted),
        image_size=32,
        band_mode="stack",
        model_size="atto",
        quality_weight=True,
        augment=False,
    )
    task = lens.build(config, tmp_path, 1)
    batch = task.data["train"].__getitems__([0, 1, 2])
    task.model.eval()
    weighted = task.loss(task.model, batch, 0).value
    plain = task.loss(
        task.model, {name: tensor for name, tensor in batch.items() if name != "weight"}, 0
    ).value
    assert batch["weight"].shape == (3,) and torch.allclose(weighted, plain * batch["weight"])


def test_the_term_begins_at_zero_and_ignores_what_is_missing():
    term = MetadataTerm(3)
    values, present = (
        np.array([[1, 5, 0], [3, 0, 0], [5, 7, 0]], np.float32),
        np.array([[1, 1, 0], [1, 0, 0], [1, 1, 0]], bool),
    )
    term.fit(values, present)
    assert term.mean.tolist() == [3, 6, 0] and np.allclose(term.deviation, [np.sqrt(8 / 3), 1, 1])
    inputs = torch.from_numpy(values), torch.from_numpy(present)
    assert torch.equal(term(*inputs), torch.zeros(3))
    torch.nn.init.normal_(term.head.weight)
    other = inputs[0].masked_fill(~inputs[1], 1e30)
    assert torch.equal(term(*inputs), term(other, inputs[1])) and term(*inputs).unique().numel() == 3


def test_a_report_shows_all_and_executes_nothing(converted, tmp_path):
    evaluate.main(["--report", str(converted), "--out_dir", str(tmp_path)])
    page = (tmp_path / "report_store.html").read_text()
    assert page.count("<img ") >= 4 and "<script" not in page and f"{5 * OBJECTS:,} files" in page
    assert all(heading in page for heading in ("Images", "Objects", "Quality of the images", "Quarantine"))
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert (converted / "preview.png").stat().st_size > 1000 and (converted / "problems.csv").exists()


@pytest.mark.parametrize(
    "options,said",
    [
        (["--data", "D"], "give the store or FITS files, not both"),
        (["--image_size", "41"], "have 32x32 pixels"),
        (["--metadata_columns", "redshfit"], "did you mean 'redshift'"),
    ],
)
def test_mistakes_are_one_line(converted, tmp_path, options, said):
    (tmp_path / "D").mkdir()
    (tmp_path / "D" / "slsim_lenses").mkdir()
    options = [option if option != "D" else str(tmp_path / "D") for option in options]
    with pytest.raises(Mistake, match=said):
        train.main([*arguments(converted, tmp_path / "run"), *options])


def test_a_stream_of_shards_trains_one_and_two_ranks(converted, tmp_path):
    """The ledger of each epoch is checked by the run itself; validation figures of one and two ranks agree
    but for rounding.
    """
    convert.main(
        ["shards", "--input", str(converted), "--output", str(tmp_path / "shards"), "--per_shard", "7"]
    )
    convert.main(["shards", "--from", str(tmp_path / "shards"), "--output", str(tmp_path / "back")])
    for name in ("pixels.npy", "index.parquet", "metadata.parquet"):
        assert (tmp_path / "back" / name).read_bytes() == (converted / name).read_bytes(), name
    options = [
        "--stream",
        str(tmp_path / "shards"),
        "--image_size",
        "32",
        "--band_mode",
        "stack",
        "--model_size",
        "atto",
        "--epochs",
        "2",
        "--batch_size",
        "16",
        "--apply_normalization",
        "--device",
        "cpu",
        "--no_augment",
        "--drop_path",
        "0",
    ]
    train.main([*options, "--save_dir", str(tmp_path / "one")])
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            "2",
            str(ROOT / "train.py"),
            *options,
            "--save_dir",
            str(tmp_path / "two"),
        ],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=os.environ | dict(OMP_NUM_THREADS="1"),
    )
    assert done.returncode == 0, done.stderr
    for run in ("one", "two"):
        assert (tmp_path / run / "train.log").read_text().count("saw each example once") == 2
    with pytest.raises(Mistake, match="--stream .* and --use_metadata: not together"):
        train.main([*options, "--use_metadata", "--save_dir", str(tmp_path / "no")])


def test_two_stores_are_matched_on_the_sky(converted, tmp_path, capsys):
    convert.main(
        ["match", "--input", str(converted), str(converted), "--output", str(tmp_path / "matches.csv")]
    )
    found = pd.read_csv(tmp_path / "matches.csv", dtype=str)
    assert (
        len(found) == OBJECTS
        and (found["object_left"] == found["object_right"]).all()
        and "60 of 60 objects" in capsys.readouterr().out
    )
    with pytest.raises(Mistake, match="expected two stores"):
        convert.main(["match", "--input", str(converted), "--output", str(tmp_path / "m.csv")])


@pytest.mark.parametrize(
    "argv,said",
    [
        (["galaxyzoo"], "did you mean 'galaxy_zoo'"),
        (["galaxiesml", "--output", "o"], "--input: expected a path"),
        (["galaxiesml", "--input", "none.hdf5", "--output", "o"], "none.hdf5"),
        (["shards", "--output", "o"], "--input: expected a path"),
        (["castles", "--labl", "1"], "no such option"),
    ],
)
def test_wrong_commands_are_one_line(argv, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((Mistake, OSError), match=said) as caught:
        convert.main(argv)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())
