"""What README's "How to add" says is enough: one file and one line, and every promise is held to."""

import pytest

import train
from contract import Mode
from model import MODELS, ModelSpec
from tests import toys
from tests.conftest import ROOT
from tests.promises import test_models, test_modes, test_tasks
from tests.promises.added import amplitude, noisy
from tests.promises.added.plain_cnn import PlainCNN
from utils.mistake import Mistake


@pytest.fixture(autouse=True)
def added(monkeypatch):
    """The one line of each."""
    monkeypatch.setitem(train.TASKS, "amplitude", amplitude)
    monkeypatch.setitem(
        MODELS, "plain_cnn", ModelSpec(PlainCNN, "three convolutions and a mean", private=True)
    )
    monkeypatch.setitem(train.ALL_MODES, "noisy", Mode(noisy.Noisy, noisy.Config))
    monkeypatch.setitem(train.TASKS, "toy", toys)
    monkeypatch.setattr("utils.plots.save_figure", lambda *_: None)
    monkeypatch.setattr("utils.stop.signal.signal", lambda *_: None)


@pytest.mark.parametrize(
    "promise",
    [
        test_tasks.test_the_loss_is_one_finite_value_an_example_and_moves_with_it,
        test_tasks.test_the_parts_of_a_loss_add_up_to_it_and_each_has_a_gradient,
        test_tasks.test_a_measure_does_not_depend_on_the_batch_size,
        test_tasks.test_a_killed_run_ends_on_the_same_bits,
        test_tasks.test_a_prediction_knows_its_network_from_the_checkpoint_alone,
    ],
    ids=lambda promise: promise.__name__,
)
def test_a_new_task(promise, tmp_path):
    flags = ["--task", "amplitude", *amplitude.tiny(tmp_path)]
    promise("amplitude", lambda name: flags, tmp_path)


@pytest.mark.parametrize(
    "promise",
    [
        test_models.test_a_network_trains_on_the_data_of_its_task,
        test_models.test_its_record_rebuilds_it,
        test_models.test_its_features_are_as_long_as_it_says,
    ],
    ids=lambda promise: promise.__name__,
)
def test_a_new_network(promise, tmp_path):
    promise("plain_cnn", {"lens": train.TASKS["lens"].tiny(tmp_path / "data")}, tmp_path)


def test_a_new_mode(tmp_path, monkeypatch):
    test_modes.test_training_lowers_the_validation_loss("noisy", tmp_path / "learns")
    test_modes.test_a_killed_run_resumes_to_the_same_bits_thrice(["--mode", "noisy"], tmp_path, monkeypatch)
    test_modes.test_keys_are_the_bare_models("noisy", tmp_path / "keys")


def test_their_options_are_flags_with_a_help_and_a_range(capsys):
    with pytest.raises(SystemExit):
        train.read_configs(["--task", "amplitude", "--mode", "noisy", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "of the hidden layer (at least 1)" in said and "variance of the noise at the first step" in said
    with pytest.raises(Mistake, match="--gradient_noise: got -1, expected at least 0"):
        train.read_configs(["--task", "toy", "--mode", "noisy", "--gradient_noise", "-1"])


def test_each_is_one_file_that_the_readme_describes():
    readme = (ROOT / "README.md").read_text()
    said = readme[readme.index("## How to add") : readme.index("## What is verified")]
    for word in ("feature_dim", "features", "classify", "rebuild", "tiny", "pose", "ModelSpec", "Mode("):
        assert word in said, word
