"""What only a GPU can show; skipped, with the reason, where there is none."""

import subprocess
import sys

import pytest
import torch

import train
from model import MODELS, create_model
from tests import toys
from tests.promises.test_ranks import ENVIRONMENT, TOYS, free_port
from utils import checkpoint

pytestmark = pytest.mark.gpu
ARGV = ["--task", "toy", "--epochs", "2", "--batch_size", "32", "--device", "cuda"]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_killed_run_resumes_to_the_same_bits_on_a_gpu(precision, tmp_path, monkeypatch):
    monkeypatch.setitem(train.TASKS, "toy", toys)
    monkeypatch.setattr("utils.stop.signal.signal", lambda *_: None)
    train.main([*ARGV, "--save_dir", str(tmp_path / "whole"), "--precision", precision])
    with pytest.raises(SystemExit):
        train.main(
            [*ARGV, "--save_dir", str(tmp_path / "broken"), "--precision", precision, "--max_time", "0.0001"]
        )
    train.main([*ARGV, "--save_dir", str(tmp_path / "broken"), "--precision", precision])
    ours, theirs = (checkpoint.load(tmp_path / name / "last.pt")["state"] for name in ("broken", "whole"))
    assert {part: checkpoint.digest(ours[part]) for part in theirs} == {
        part: checkpoint.digest(theirs[part]) for part in theirs
    }


def test_a_compiled_run_learns_the_same_and_says_whether_graphs_pay(tmp_path, monkeypatch):
    monkeypatch.setitem(train.TASKS, "toy", toys)
    for name, more in {"plain": [], "compiled": ["--compile"]}.items():
        train.main(
            [*ARGV, "--save_dir", str(tmp_path / name), "--dropout", "0", "--precision", "fp32", *more]
        )
    assert "CUDA graphs: " in (tmp_path / "compiled" / "train.log").read_text()
    plain, compiled = (
        checkpoint.load(tmp_path / name / "last.pt")["state"]["model"] for name in ("plain", "compiled")
    )
    for key in plain:
        torch.testing.assert_close(plain[key], compiled[key], rtol=1e-3, atol=1e-4)


def test_one_rank_over_nccl(tmp_path):
    argv = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "1",
        "--master_port",
        free_port(),
        TOYS,
        *ARGV,
        "--save_dir",
        str(tmp_path / "run"),
    ]
    subprocess.run(argv, check=True, env=ENVIRONMENT, timeout=300, capture_output=True)
    assert checkpoint.load(tmp_path / "run" / "last.pt")["state"]["progress"]["step"] == 14


@pytest.mark.parametrize("name", [name for name in MODELS if name != "timm"])
def test_each_network_agrees_with_the_cpu(name):
    """Features, and the gradient of the weights, in float32."""
    torch.manual_seed(0)
    network = create_model(
        name, in_chans=5, **({"size": MODELS[name].sizes[0]} if MODELS[name].sizes else {})
    ).eval()
    image = torch.randn(8, 5, 41, 41)
    found = []
    for device in ("cpu", "cuda"):
        network.to(device).zero_grad()
        features = network.features(image.to(device))
        network.classify(features).square().sum().backward()
        found.append(
            [features.detach().cpu()] + [p.grad.cpu() for p in network.parameters() if p.grad is not None]
        )
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).norm() <= 2e-3 * ours.norm() + 1e-6


def test_the_lens_network_agrees_with_the_cpu(trained):
    from trained import load_weights
    from tasks import lens
    from utils.config import recorded

    saved = checkpoint.load(trained["stack"] / "best.pt")
    config = recorded(lens.Config, saved["record"]["options"])
    inputs = (
        torch.randn(16, 2, 41, 41),
        torch.ones(16, 2, dtype=torch.bool),
        torch.zeros(16, dtype=torch.int64),
    )
    with torch.no_grad():
        on_cpu = load_weights(lens.build_network(config, 2), saved, torch.device("cpu"))(*inputs)["logit"]
        on_gpu = load_weights(lens.build_network(config, 2), saved, torch.device("cuda"))(
            *(tensor.cuda() for tensor in inputs)
        )["logit"].cpu()
    torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-3, atol=1e-3)
