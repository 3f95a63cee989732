"""A checkpoint that is old, damaged or hostile is refused in one line, before memory of its size is taken."""

import pickle
import zipfile

import pytest
import torch

import predict
from trained import check_weights, read_checkpoint
from utils import checkpoint
from utils.mistake import Mistake


@pytest.fixture(scope="module")
def best(trained) -> dict:
    return checkpoint.load(trained["single"] / "best.pt")


def changed(best: dict, change) -> dict:
    """A copy of a checkpoint's tree that `change` has changed in place, or what it returns instead."""
    tree = pickle.loads(pickle.dumps(best))
    other = change(tree)
    return other if isinstance(other, dict) and "record" in other else tree


def first_weight(tree: dict) -> str:
    return next(name for name, weight in tree["model"].items() if weight.ndim > 1)


CHANGES = {
    "no record": (lambda t: t.pop("record"), "without record"),
    "a record of text": (lambda t: t.update(record="x"), "without record"),
    "no options": (lambda t: t["record"].pop("options"), "without record"),
    "no data": (lambda t: t["record"].pop("data"), "without record"),
    "no task": (lambda t: t["record"]["options"].pop("task"), "without task"),
    "a task of another version": (
        lambda t: t["record"]["options"].update(task="lenses"),
        "--task: got 'lenses'",
    ),
    "a task that is a list": (lambda t: t["record"]["options"].update(task=["lens"]), "without task"),
    "no precision": (lambda t: t["record"]["options"].pop("precision"), "without precision"),
    "another precision": (lambda t: t["record"]["options"].update(precision="fp8"), "without precision"),
    "no bands": (lambda t: t["record"]["data"].pop("bands"), "names bands None, expected a list"),
    "bands that are a number": (lambda t: t["record"]["data"].update(bands=3), "names bands 3"),
    "bands of numbers": (lambda t: t["record"]["data"].update(bands=[1, 2]), "names bands"),
    "another network": (lambda t: t["record"]["options"].update(model="gone"), "cannot be built"),
    "a size of text": (lambda t: t["record"]["options"].update(image_size="41"), "says --image_size '41'"),
    "a size below its range": (lambda t: t["record"]["options"].update(image_size=0), "--image_size: got 0"),
    "a switch that is a number": (lambda t: t["record"]["options"].update(augment=1.5), "says --augment 1.5"),
    "a long text": (
        lambda t: t["record"]["options"].update(image_size="x" * 10**6),
        "says --image_size 'xxx",
    ),
    "no weights": (lambda t: t.pop("model"), "without weights"),
    "weights in a list": (lambda t: t.update(model=[torch.ones(2)]), "without weights"),
    "weights of text": (lambda t: t.update(model={"a": "b"}), "without weights"),
    "a weight less": (lambda t: t["model"].pop(first_weight(t)), "lacks 1 of the network's"),
    "a weight more": (lambda t: t["model"].update(other=torch.ones(2)), "has besides 1 of"),
    "a weight of another shape": (
        lambda t: t["model"].update({first_weight(t): torch.ones(3, 2)}),
        "is 3x2, expected",
    ),
    "a weight that is no number": (
        lambda t: t["model"][first_weight(t)].view(-1)[:2].fill_(float("nan")),
        "holds 2 values that are not finite",
    ),
    "a tensor of 4 TB in 4 bytes": (
        lambda t: t["model"].update(big=torch.ones(1).expand(1000, 1000, 1000, 1000)),
        "holds a tensor .* in 4 bytes",
    ),
    "a sparse tensor": (lambda t: t["model"].update(big=torch.eye(3).to_sparse()), "not a plain one"),
    "last.pt without progress": (
        lambda t: dict(record=t["record"], state=dict(ema=t["model"], progress=3)),
        "without progress",
    ),
    "last.pt without weights": (
        lambda t: dict(record=t["record"], state=dict(progress=3)),
        "without weights",
    ),
    "last.pt that is a list": (lambda t: dict(record=t["record"], state=[1]), "without weights"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_versions_checkpoint_is_one_line(tmp_path, best, challenge, change):
    spoil, message = CHANGES[change]
    tree = changed(best, spoil)
    # as another program would write it: without the checks of our own writer
    torch.save(dict(version=checkpoint.VERSION, checksum=of(tree), **tree), tmp_path / "best.pt")
    with pytest.raises(Mistake, match=message) as refusal:
        asked = ["--model_path", str(tmp_path / "best.pt"), "--data", str(challenge)]
        predict.read_options([*asked, "--output_dir", str(tmp_path / "out")])
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 600
    assert not (tmp_path / "out").exists()


def of(tree: dict) -> str:
    """The checksum, or none where it would take the memory that the file pretends to need."""
    leaves = torch.utils._pytree.tree_leaves(tree)
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    plain = all(leaf.layout is torch.strided and leaf.numel() < 10**9 for leaf in tensors)
    return checkpoint.digest(tree) if plain else ""


def test_what_trains_here_fits(trained):
    for run_dir in trained.values():
        for name in ("best.pt", "last.pt"):
            saved = read_checkpoint(str(run_dir / name))
            check_weights(predict.TASKS["lens"].rebuild, saved, name)


@pytest.mark.parametrize("name", ["archive/data.pkl", "archive/data/0"])
def test_a_part_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "best.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open(name, "w", force_zip64=True) as part:
            for _ in range(64):
                part.write(bytes(2**22))
    assert (tmp_path / "best.pt").stat().st_size < 2**20
    with pytest.raises(checkpoint.Damaged, match="says that it unpacks to 268,435,456 bytes"):
        checkpoint.load(tmp_path / "best.pt")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"# text\n" * 100, b"\x80\x02}q\x00."])
def test_what_is_no_archive_is_one_line(tmp_path, content):
    (tmp_path / "best.pt").write_bytes(content)
    with pytest.raises(Mistake, match="cannot be read as a checkpoint"):
        read_checkpoint(str(tmp_path / "best.pt"))


def test_trouble_of_the_machine_is_not_called_damage(tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "last.pt", dict(step=1, big=torch.zeros(1000)), tmp_path / "previous.pt")
    checkpoint.save(tmp_path / "last.pt", dict(step=2, big=torch.zeros(1000)), tmp_path / "previous.pt")
    for number in (5, 13, 23, 24, 116):  # EIO, EACCES, ENFILE, EMFILE, ESTALE

        def refused(*_, number=number, **__):
            raise OSError(number, "as the machine says")

        monkeypatch.setattr(torch, "load", refused)
        with pytest.raises(OSError) as trouble:  # and previous.pt is not gone on from
            checkpoint.load_newest(tmp_path, pytest.fail)
        assert trouble.value.errno == number
