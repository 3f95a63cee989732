"""What every training mode promises, checked for every training mode; and the loop's own promises."""

import json

import pytest
import torch

import train
from tests import toys
from train import ALL_MODES as MODES
from utils import checkpoint
from utils.mistake import Mistake

MODE_OPTIONS = {"customer_data": ["--noise_seed", "1"]}  # what makes its draws repeat
SHORT = ["--task", "toy", "--epochs", "3", "--batch_size", "32", "--log_every", "50", "--device", "cpu"]


class Died(Exception):
    """The process is gone."""


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Signals stay the test runner's, and TensorBoard (1 s a run) is only written where a test reads it."""
    monkeypatch.setitem(train.TASKS, "toy", toys)
    monkeypatch.setattr("utils.stop.signal.signal", lambda *_: None)


def run(folder, *options, die_at=None, monkeypatch=None):
    argv = [*SHORT, "--save_dir", str(folder), *options]
    if die_at is None:
        return train.main(argv)
    real = toys.Clouds.__getitems__
    calls = []

    def dying(self, indices):
        calls.append(1)
        if len(calls) > die_at:
            raise Died
        return real(self, indices)

    with monkeypatch.context() as patch:
        patch.setattr(toys.Clouds, "__getitems__", dying)
        with pytest.raises(Died):
            train.main(argv)


def state(folder, name="last.pt"):
    return checkpoint.load(folder / name)


@pytest.mark.parametrize("mode", MODES)
def test_training_lowers_the_validation_loss(mode, tmp_path):
    run(
        tmp_path,
        "--mode",
        mode,
        *MODE_OPTIONS.get(mode, []),
        "--epochs",
        "12",
        "--lr",
        "0.02",
        "--warmup_epochs",
        "0.5",
        "--ema_decay",
        "0.9",
    )
    history = state(tmp_path)["state"]["progress"]["history"]
    assert history[-1]["val_loss"] < 0.8 * 0.693 and history[-1]["val_acc"] > 0.8


@pytest.mark.parametrize(
    "options",
    [
        ["--mode", "single"],
        ["--mode", "customer_data", "--noise_seed", "1"],
        ["--accumulate", "3"],
        ["--precision", "fp16"],
        ["--precision", "bf16", "--accumulate", "2"],
        ["--scheduler", "plateau", "--plateau_patience", "0"],
        ["--norm", "batch"],
        ["--num_workers", "1"],
    ],
    ids=lambda options: " ".join(options),
)
def test_a_killed_run_resumes_to_the_same_bits_thrice(options, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(whole, *options, "--save_every", "2")
    for die_at in (4, 5, 12):  # within the first epoch twice, then later; counted from each start
        run(
            broken,
            *options,
            "--save_every",
            "2",
            "--num_workers",
            "0",
            die_at=die_at,
            monkeypatch=monkeypatch,
        )
    run(broken, *options, "--save_every", "2")
    ours, theirs = state(broken)["state"], state(whole)["state"]
    for part in theirs:
        assert checkpoint.digest(ours[part]) == checkpoint.digest(theirs[part]), part
    assert (broken / "training_log.csv").read_bytes() == (whole / "training_log.csv").read_bytes()
    assert checkpoint.digest(state(broken, "best.pt")["model"]) == checkpoint.digest(
        state(whole, "best.pt")["model"]
    )


@pytest.mark.parametrize("mode", MODES)
def test_keys_are_the_bare_models(mode, tmp_path):
    run(tmp_path, "--mode", mode, *MODE_OPTIONS.get(mode, []), "--epochs", "1")
    bare = toys.Classifier(toys.Config()).state_dict().keys()
    assert state(tmp_path)["state"]["model"].keys() == bare == state(tmp_path, "best.pt")["model"].keys()


@pytest.mark.parametrize(
    "changed,message",
    [
        (["--lr", "0.5"], r"--lr 0.0003 -> 0.5"),
        (["--seed", "1"], "--seed 42 -> 1"),
        (["--width", "8"], "--width 16 -> 8"),
        (["--mode", "customer_data"], "--mode 'single' -> 'customer_data'"),
        (["--epochs", "9"], "--epochs 1 -> 9"),
    ],
)
def test_a_changed_option_is_refused_with_both_values(changed, message, tmp_path):
    run(tmp_path, "--epochs", "1")
    with pytest.raises(Mistake, match=message):
        run(tmp_path, "--epochs", "1", *changed)


def test_an_option_that_changes_nothing_is_not_refused_and_restart_begins_anew(tmp_path):
    run(tmp_path, "--epochs", "1")
    run(tmp_path, "--epochs", "1", "--log_every", "1", "--max_time", "10")
    (tmp_path / "pred_val").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    run(tmp_path, "--epochs", "1", "--lr", "0.5", "--restart")
    assert (tmp_path / "notes.txt").exists() and (tmp_path / "pred_val").exists()
    assert state(tmp_path)["record"]["options"]["lr"] == 0.5


def test_accumulation_gives_the_whole_batchs_gradient(tmp_path):
    run(tmp_path / "one", "--dropout", "0")
    run(tmp_path / "five", "--dropout", "0", "--accumulate", "5")
    one, five = (state(tmp_path / name)["state"]["model"] for name in ("one", "five"))
    for key in one:
        torch.testing.assert_close(one[key], five[key], rtol=1e-4, atol=1e-6)


def test_a_compiled_network_learns_the_same_and_keeps_its_keys(tmp_path):
    run(tmp_path / "plain", "--dropout", "0")
    run(tmp_path / "compiled", "--dropout", "0", "--compile")
    plain, compiled = (state(tmp_path / name)["state"]["model"] for name in ("plain", "compiled"))
    assert plain.keys() == compiled.keys()
    for key in plain:
        torch.testing.assert_close(plain[key], compiled[key], rtol=1e-3, atol=1e-5)


def test_the_run_directory_holds_what_the_design_says(tmp_path):
    run(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert {
        "config.yaml",
        "env.json",
        "last.pt",
        "previous.pt",
        "best.pt",
        "training_log.csv",
        "train.log",
        "results.json",
        "figures",
    } <= names
    assert (tmp_path / "figures" / "curves.png").stat().st_size > 5000
    header = (tmp_path / "training_log.csv").read_text().splitlines()[0]
    assert header.startswith("epoch,train_loss,train_acc,val_loss,val_acc,") and header.endswith(",lr")
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["best_epoch"] in (1, 2, 3) and 0 < results["test"]["loss"] < 1


def test_a_run_repeated_after_its_end_changes_nothing(tmp_path):
    run(tmp_path)
    before = checkpoint.digest(state(tmp_path))
    run(tmp_path)
    assert checkpoint.digest(state(tmp_path)) == before


def test_patience_ends_a_run_that_gets_no_better(tmp_path):
    run(tmp_path, "--epochs", "30", "--patience", "2", "--min_delta", "0.5")
    assert len(state(tmp_path)["state"]["progress"]["history"]) == 3


def test_a_poisoned_example_is_named_before_the_optimiser_moves(tmp_path):
    with pytest.raises(FloatingPointError, match=r"step \d+: the gradient norm is nan.*cloud_17"):
        run(tmp_path, "--poison", "17")


def test_fp16_does_not_skip_for_ever(tmp_path):
    """A scale that has fallen below 1 is not to blame: the run ends and says so."""
    with pytest.raises(FloatingPointError, match="cloud_17"):
        run(
            tmp_path,
            "--poison",
            "17",
            "--precision",
            "fp16",
            "--epochs",
            "30",
            "--batch_size",
            "200",
            "--patience",
            "0",
        )


def test_a_step_that_the_scaler_skips_moves_neither_schedule_nor_ema(tmp_path, monkeypatch):
    real = torch.amp.GradScaler
    monkeypatch.setattr(
        torch.amp, "GradScaler", lambda device, enabled: real(device, enabled=enabled, init_scale=2.0**60)
    )
    run(tmp_path, "--precision", "fp16", "--epochs", "1", "--warmup_epochs", "1")
    progress = state(tmp_path)["state"]["progress"]
    assert progress["step"] == 7 and progress["updates"] == 0
    before = toys.Classifier(toys.Config())
    ema, model = (state(tmp_path)["state"][part] for part in ("ema", "model"))
    assert before.state_dict().keys() == ema.keys()
    assert all(torch.equal(ema[key], model[key]) for key in ema)  # nothing moved


def test_time_budget_ends_with_a_checkpoint_and_its_exit_code(tmp_path):
    with pytest.raises(SystemExit) as ended:
        run(tmp_path, "--max_time", "0.002", "--pause", "0.05")
    assert ended.value.code == 75 and state(tmp_path)["state"]["progress"]["step"] < 21
    run(tmp_path)
    run(tmp_path / "whole")
    assert checkpoint.digest(state(tmp_path)["state"]) == checkpoint.digest(
        state(tmp_path / "whole")["state"]
    )


def test_tensorboard_holds_the_figures(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, "--log_every", "2")
    events = EventAccumulator(str(tmp_path)).Reload()
    tags = set(events.Tags()["scalars"])
    assert {
        "step/loss",
        "step/lr",
        "step/grad_norm",
        "step/scale",
        "step/examples_per_s",
        "step/data_wait_share",
        "step/memory_gib",
        "step/ema_decay",
        "epoch/val_loss",
        "epoch/train_acc",
    } <= tags
    logged = [event.value for event in events.Scalars("epoch/val_loss")]
    history = state(tmp_path)["state"]["progress"]["history"]
    assert logged == pytest.approx([row["val_loss"] for row in history])
