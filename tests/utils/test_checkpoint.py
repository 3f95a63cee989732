"""Checkpoints survive kills, full disks and flipped bits."""

import os
import random
import resource
import signal
import threading
import time

import pytest
import torch
from torch import nn

from utils import checkpoint, tensor_file
from utils.mistake import Mistake


def tree(seed: int = 0) -> dict:
    torch.manual_seed(seed)
    model = nn.Linear(50, 60)
    return dict(
        record={"options": {"lr": 1e-3}},
        state=dict(
            model=model.state_dict(),
            counts=torch.arange(5),
            half=torch.randn(3).bfloat16(),
            empty=torch.zeros(0),
            scalar=torch.tensor(2.0),
            text=["a", 1, None, True],
        ),
    )


def test_what_is_written_is_read(tmp_path):
    checkpoint.save(tmp_path / "last.pt", tree())
    assert checkpoint.digest(checkpoint.load(tmp_path / "last.pt")) == checkpoint.digest(tree())


def test_the_digest_sees_every_change():
    digests = {checkpoint.digest(tree())}
    changed = tree()
    changed["state"]["model"]["weight"][3, 4] += 1e-7
    for other in (
        changed,
        tree(1),
        {**tree(), "more": 1},
        torch.zeros(2),
        torch.zeros(2, 1),
        torch.zeros(2).half(),
        {"a": 1},
        {"a": 1.0},
    ):
        digests.add(checkpoint.digest(other))
    assert len(digests) == 9


def test_a_flipped_byte_is_noticed_and_the_previous_file_is_used(tmp_path):
    checkpoint.save(tmp_path / "last.pt", tree(0), tmp_path / "previous.pt")
    checkpoint.save(tmp_path / "last.pt", tree(1), tmp_path / "previous.pt")
    whole = bytearray((tmp_path / "last.pt").read_bytes())
    random.seed(0)
    for _ in range(25):
        position = whole.index(tree(1)["state"]["model"]["weight"].numpy().tobytes()) + random.randrange(
            12_000
        )
        damaged = bytearray(whole)
        damaged[position] ^= 1 << random.randrange(8)
        (tmp_path / "last.pt").write_bytes(damaged)
        with pytest.raises(checkpoint.Damaged):
            checkpoint.load(tmp_path / "last.pt")
    warnings = []
    assert checkpoint.digest(checkpoint.load_newest(tmp_path, warnings.append)) == checkpoint.digest(tree(0))
    assert "last.pt" in warnings[0] and "previous.pt" in warnings[0]
    (tmp_path / "previous.pt").write_bytes(b"")
    with pytest.raises(Mistake, match="begin anew with --restart"):
        checkpoint.load_newest(tmp_path, warnings.append)


@pytest.mark.parametrize("length", [0, 100, 5000])
def test_a_truncated_file_is_noticed(tmp_path, length):
    checkpoint.save(tmp_path / "last.pt", tree())
    (tmp_path / "last.pt").write_bytes((tmp_path / "last.pt").read_bytes()[:length])
    with pytest.raises(checkpoint.Damaged):
        checkpoint.load(tmp_path / "last.pt")


def test_a_file_of_another_kind_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "last.pt")
    with pytest.raises(Mistake, match="no Starloop checkpoint"):
        checkpoint.load(tmp_path / "last.pt")


def test_a_pickle_that_would_run_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"checksum": Evil()}, tmp_path / "last.pt")
    with pytest.raises(checkpoint.Damaged):
        checkpoint.load(tmp_path / "last.pt")
    assert not (tmp_path / "owned").exists()


def test_kill_9_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    random.seed(0)
    newest = -1
    for _ in range(30):
        child = os.fork()
        if child == 0:
            step = newest
            while True:
                step += 1
                checkpoint.save(
                    tmp_path / "last.pt", dict(step=step, big=torch.zeros(300_000)), tmp_path / "previous.pt"
                )
        time.sleep(random.uniform(0.0, 0.08))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = checkpoint.load_newest(tmp_path, lambda text: None)
        if found is not None:
            assert found["step"] >= newest
            newest = found["step"]
    assert newest > 0


def test_a_full_disk_keeps_the_checkpoint_before_it(tmp_path):
    checkpoint.save(tmp_path / "last.pt", tree(0), tmp_path / "previous.pt")
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
        try:
            checkpoint.save(tmp_path / "last.pt", tree(1), tmp_path / "previous.pt")
        except Mistake as mistake:
            os._exit(7 if "the checkpoint before it is kept" in str(mistake) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert checkpoint.digest(checkpoint.load(tmp_path / "last.pt")) == checkpoint.digest(tree(0))
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def slow(monkeypatch) -> threading.Event:
    """Saves begin only once the event is set."""
    go, real = threading.Event(), checkpoint.save

    def waiting(*arguments):
        assert go.wait(20)
        real(*arguments)

    monkeypatch.setattr(checkpoint, "save", waiting)
    return go


def test_a_writer_saves_what_was_there_when_it_was_asked(tmp_path, monkeypatch):
    go, changing = slow(monkeypatch), tree(0)
    changing["state"]["channels_last"] = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    with checkpoint.Writer() as writer:
        for turn in range(3):  # the second and third use the memory of the first
            before = checkpoint.digest(changing)
            writer.save(tmp_path / "last.pt", changing, tmp_path / "previous.pt")
            for leaf in (
                changing["state"]["model"]["weight"],
                changing["state"]["counts"],
                changing["state"]["channels_last"],
            ):
                leaf.add_(1)
            assert turn or not (tmp_path / "last.pt").exists()
            go.set()  # the first is written from here on
            writer.wait()
            assert (
                checkpoint.digest(checkpoint.load(tmp_path / "last.pt"))
                == before
                != checkpoint.digest(changing)
            )
            assert len(writer.spare[checkpoint.kind_of(changing["state"]["model"]["weight"])]) == 1


def test_a_save_of_the_same_file_waits_for_the_one_before_and_none_is_left_out(tmp_path, monkeypatch):
    go = slow(monkeypatch)
    with checkpoint.Writer() as writer:
        writer.save(tmp_path / "last.pt", dict(step=1), tmp_path / "previous.pt")
        writer.save(tmp_path / "best.pt", dict(step=1))  # another file: no need to wait
        began = time.monotonic()
        threading.Timer(0.3, go.set).start()
        writer.save(tmp_path / "last.pt", dict(step=2), tmp_path / "previous.pt")
        assert time.monotonic() - began > 0.25
        writer.wait()
        assert (
            checkpoint.load(tmp_path / "previous.pt")["step"] == 1
            and checkpoint.load(tmp_path / "last.pt")["step"] == 2
        )
        assert checkpoint.load(tmp_path / "best.pt")["step"] == 1


@pytest.mark.parametrize("end", [None, KeyboardInterrupt, FloatingPointError, SystemExit])
def test_whatever_ends_the_block_waits_for_the_file(end, tmp_path, monkeypatch):
    go = slow(monkeypatch)
    try:
        with checkpoint.Writer() as writer:
            writer.save(tmp_path / "last.pt", tree())
            threading.Timer(0.2, go.set).start()
            if end:
                raise end
    except BaseException as error:
        assert type(error) is end and not hasattr(error, "__notes__")
    assert checkpoint.digest(checkpoint.load(tmp_path / "last.pt")) == checkpoint.digest(tree())


def broken(monkeypatch) -> None:
    """Saves of best.pt fail as on a full disk."""
    real = checkpoint.save

    def failing(path, *rest):
        if path.name == "best.pt":
            raise Mistake("best.pt: could not be written")
        real(path, *rest)

    monkeypatch.setattr(checkpoint, "save", failing)


def test_an_error_of_the_thread_is_raised_by_the_next_look_and_nothing_more_is_written(tmp_path, monkeypatch):
    broken(monkeypatch)
    with pytest.raises(Mistake, match="could not be written") as seen, checkpoint.Writer() as writer:
        writer.save(tmp_path / "best.pt", tree())
        writer.save(tmp_path / "last.pt", tree())  # would say that best.pt is there
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            writer.check()
            time.sleep(0.01)
    assert not list(tmp_path.iterdir()) and not hasattr(seen.value, "__notes__")


def test_an_error_of_the_thread_is_raised_at_the_end_and_does_not_hide_another(tmp_path, monkeypatch):
    broken(monkeypatch)
    with pytest.raises(Mistake, match="could not be written"), checkpoint.Writer() as writer:
        writer.save(tmp_path / "best.pt", tree())
    with pytest.raises(FloatingPointError) as seen, checkpoint.Writer() as writer:
        writer.save(tmp_path / "best.pt", tree())
        raise FloatingPointError("step 3")
    assert "could not be written" in seen.value.__notes__[0]


def test_memory_is_touched_ahead(tmp_path):
    model = nn.Linear(50, 60)
    with checkpoint.Writer() as writer:
        writer.expect([*model.parameters()] * 2)
        writer.thread.submit(int).result()
        spare = writer.spare[checkpoint.kind_of(model.weight)]
        assert len(spare) == 2
        writer.save(tmp_path / "last.pt", dict(model=model.state_dict()))
        writer.wait()
        assert len(spare) == 2


def test_kill_9_of_a_writer_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    random.seed(1)
    newest = -1
    for _ in range(30):
        child = os.fork()
        if child == 0:
            step, big = newest, torch.zeros(300_000)
            with checkpoint.Writer() as writer:
                while True:
                    step += 1
                    writer.save(
                        tmp_path / "last.pt", dict(step=step, big=big.fill_(step)), tmp_path / "previous.pt"
                    )
        time.sleep(random.uniform(0.0, 0.08))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = checkpoint.load_newest(tmp_path, lambda text: None)
        if found is not None:
            assert found["step"] >= newest and (found["big"] == found["step"]).all()
            newest = found["step"]
    assert newest > 0


def test_parts_that_do_not_fit_are_named(tmp_path):
    class Part:
        def __init__(self, memory=None):
            self.state = None
            self.memory = {} if memory is None else memory

        def state_dict(self):
            return self.memory

        def load_state_dict(self, state):
            self.state = state

    parts = dict(one=Part({"a": 1}), two=Part({"a": 1}), forgetful=Part())
    states = checkpoint.collect(parts)
    checkpoint.restore(parts, states, "x")
    assert parts["one"].state == {"a": 1}
    with pytest.raises(Mistake, match=r"lacks \['two'\] and holds \['three'\]"):
        checkpoint.restore(parts, dict(one={"a": 1}, three={"a": 1}), "x")
    with pytest.raises(Mistake, match="its model does not fit"):
        checkpoint.restore(dict(model=nn.Linear(2, 3)), dict(model=nn.Linear(3, 3).state_dict()), "x")


def unusual() -> dict:
    """Tensors that torch.save has other ways for."""
    return dict(
        parameter=nn.Parameter(torch.ones(2)),
        uint16=torch.ones(2, dtype=torch.uint16),
        sparse=torch.eye(3).to_sparse(),
        conjugate=torch.ones(2, dtype=torch.cfloat).conj(),
        eight=torch.ones(2).to(torch.float8_e4m3fn),
    )


def same_leaves(ours, theirs) -> None:
    assert type(ours) is type(theirs)
    if isinstance(theirs, torch.Tensor):
        assert (ours.dtype, ours.shape, ours.layout, ours.requires_grad) == (
            theirs.dtype,
            theirs.shape,
            theirs.layout,
            theirs.requires_grad,
        )
        assert ours.layout is torch.sparse_coo or ours.stride() == theirs.stride()
        assert checkpoint.digest(ours.to_dense().resolve_conj()) == checkpoint.digest(
            theirs.to_dense().resolve_conj()
        )
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        [same_leaves(ours[name], theirs[name]) for name in theirs]
    elif isinstance(theirs, (list, tuple)):
        [same_leaves(*pair) for pair in zip(ours, theirs, strict=True)]
    else:
        assert ours == theirs


@pytest.mark.parametrize("name", ["plain", *unusual()])
def test_a_file_is_what_torch_save_would_have_written(name, tmp_path):
    """Ours may be an ordinary file, which other programs read, and for what is unusual it is torch's own."""
    base = torch.arange(24.0).reshape(2, 3, 4)
    given = tree()["state"] | dict(
        transposed=base.mT,
        part=base[:, 1:],
        again=base,
        number=torch.tensor(True),
        complex=torch.ones(2, dtype=torch.cdouble),
        nested=(1, [torch.zeros(2, dtype=torch.int16), {3: "x"}]),
        channels_last=torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    )
    if name != "plain":
        given["unusual"] = unusual()[name]
    tensor_file.write_tensors(tmp_path / "ours.pt", given)
    torch.save(given, tmp_path / "theirs.pt")
    ours, theirs = (torch.load(tmp_path / file, weights_only=True) for file in ("ours.pt", "theirs.pt"))
    same_leaves(ours, theirs)
    # shared memory stays shared
    assert ours["part"].untyped_storage().data_ptr() == ours["again"].untyped_storage().data_ptr()
    assert abs((tmp_path / "ours.pt").stat().st_size - (tmp_path / "theirs.pt").stat().st_size) < 4096


def test_a_file_of_before_is_read(tmp_path):
    """As it was written with torch.save."""
    torch.save(
        dict(version=checkpoint.VERSION, checksum=checkpoint.digest(tree()), **tree()), tmp_path / "last.pt"
    )
    assert checkpoint.digest(checkpoint.load(tmp_path / "last.pt")) == checkpoint.digest(tree())


@pytest.mark.parametrize("missing", [1, 22, 5000])
def test_a_file_whose_last_bytes_did_not_arrive_is_a_full_disk(missing, tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "last.pt", tree(0), tmp_path / "previous.pt")
    real = torch.serialization._open_zipfile_writer_file.__exit__

    def losing(self, *error):
        real(self, *error)
        os.truncate(self.name, os.path.getsize(self.name) - missing)

    monkeypatch.setattr(torch.serialization._open_zipfile_writer_file, "__exit__", losing)
    with pytest.raises(Mistake, match="the checkpoint before it is kept"):
        checkpoint.save(tmp_path / "last.pt", tree(1), tmp_path / "previous.pt")
    assert checkpoint.digest(checkpoint.load(tmp_path / "last.pt")) == checkpoint.digest(tree(0))
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]
