"""data/packing.py: a pack is made once, whole or not at all, whoever is killed, waits or has no locks."""

import errno
import fcntl
import json
import os
import threading

import numpy as np
import pandas as pd
import pytest

from data.packing import (
    PackKind,
    content_digest,
    first_reasons,
    locked,
    pack_once,
    publish_pack,
    quarantine_lines,
    remove_partials,
    statuses,
    write_arrays_durably,
)
from data.workers import WorkerLost
from utils.mistake import Mistake


KIND = PackKind(1, "pack of numbers", "the pack of numbers {} is", "it is counted anew")
DONE = '{"version": 1, "inventory": "123"}'


def packed(directory, say=lambda line: None, trouble=None):
    """How often a pack of one file was made by this call."""
    made = []

    def pack():
        made.append(True)
        if trouble:
            trouble()
        partial = directory / "partial_1"
        partial.mkdir(exist_ok=True)
        (partial / "numbers").write_text("123")
        publish_pack(partial, ["numbers"], {"version": 1, "inventory": "123"})

    pack_once(KIND, directory, "123", pack, "numbers", say, needed="3 bytes")
    return len(made)


def test_a_second_use_packs_nothing(tmp_path):
    assert [packed(tmp_path / "a/b"), packed(tmp_path / "a/b")] == [1, 0]
    assert sorted(path.name for path in (tmp_path / "a/b").iterdir()) == ["lock", "manifest.json", "numbers"]


def test_who_waited_for_another_looks_again(tmp_path):
    """The lock is held by another file description, as by another process; it packs and lets go."""
    said, made = [], []
    with open(tmp_path / "lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = threading.Thread(target=lambda: made.append(packed(tmp_path, said.append)))
        waiting.start()
        while not said:
            pass
        (tmp_path / "manifest.json").write_text(DONE)
    waiting.join()
    assert said == [f"another process is packing {tmp_path}: waiting for it"] and made == [0]


def test_the_lock_says_what_is_done_whatever_the_folder_is_called(tmp_path):
    said, folder = [], tmp_path / "packing"
    folder.mkdir()
    with open(folder / "lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def say(line):
            said.append(line)
            fcntl.flock(other, fcntl.LOCK_UN)

        with locked(folder, say, "planning"):
            pass
    assert said == [f"another process is planning {folder}: waiting for it"]


def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    said = []
    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert packed(tmp_path, said.append) == 1
    assert said == [f"{tmp_path} is on a file system without locks: start one job alone until it is packed"]


@pytest.mark.parametrize(
    "raised, words",
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "is full .No space.*: numbers needs 3 bytes; make",
        ),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot write numbers into"),
        (WorkerLost("a packing process was killed"), "killed; what is packed stays in '.*': run the same"),
    ],
)
def test_what_a_person_can_mend_is_one_line(tmp_path, raised, words):
    def trouble():
        raise raised

    with pytest.raises(Mistake, match=words) as caught:
        packed(tmp_path, trouble=trouble)
    assert "\n" not in str(caught.value)
    assert packed(tmp_path) == 1


def test_trouble_of_the_machine_is_raised_unless_another_node_has_finished_the_pack(tmp_path):
    def stale():
        raise OSError(errno.ESTALE, "Stale file handle")

    with pytest.raises(OSError, match="Stale file handle"):
        packed(tmp_path, trouble=stale)

    def finished_elsewhere():
        (tmp_path / "manifest.json").write_text(DONE)
        stale()

    assert packed(tmp_path, trouble=finished_elsewhere) == 1


def test_the_manifest_is_there_only_when_all_is(tmp_path, monkeypatch):
    """At whatever rename the power goes: no manifest, or the new one and all of its files."""
    for death in range(4):
        directory = tmp_path / str(death)
        partial = directory / "partial_2"
        partial.mkdir(parents=True)
        for name in ("one", "two"):
            (directory / name).write_text("old")
            (partial / name).write_text("new")
        (directory / "manifest.json").write_text('{"version": "old"}')
        renames, replace = [], os.replace

        def dying(*paths, renames=renames, death=death, replace=replace):
            if len(renames) == death:
                raise KeyboardInterrupt
            renames.append(paths)
            replace(*paths)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", dying)
            try:
                publish_pack(partial, ["one", "two"], {"version": "new"}, outdated=["manifest.json"])
            except KeyboardInterrupt:
                assert death < 3 and not (directory / "manifest.json").exists()
            else:
                assert death == 3 and json.loads((directory / "manifest.json").read_text()) == {
                    "version": "new"
                }
                assert (directory / "one").read_text() == (directory / "two").read_text() == "new"
                assert not partial.exists()


def test_a_manifest_is_read_or_the_pack_is_called_damaged(tmp_path):
    assert KIND.read_manifest(tmp_path / "nowhere") is None and not KIND.holds(tmp_path / "nowhere", "123")
    with pytest.raises(Mistake, match="nowhere' holds no complete pack of numbers .no manifest.json.: run"):
        KIND.open_manifest(tmp_path / "nowhere")
    (tmp_path / "manifest.json").write_text(DONE)
    assert KIND.open_manifest(tmp_path) == KIND.read_manifest(tmp_path) == json.loads(DONE)
    assert KIND.holds(tmp_path, "123") and not KIND.holds(tmp_path, "124")
    (tmp_path / "manifest.json").write_text('{"version": 2}')
    with pytest.raises(Mistake, match="of version 2, and this code reads version 1: give another folder"):
        KIND.holds(tmp_path, "123")
    for text in ("[1]", '{"version": 1', '{"version": "2"}'):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(Mistake) as caught:
            KIND.holds(tmp_path, "123")
        said = str(caught.value)
        assert said.startswith(f"the pack of numbers '{tmp_path}' is damaged or foreign: manifest.json")
        assert said.endswith("; remove the folder and run again, it is counted anew")


def test_a_file_of_a_pack_is_known_by_its_digest(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    assert KIND.read_checked(tmp_path, "a", content_digest(b"one")) == b"one"
    with pytest.raises(Mistake, match="is damaged or foreign: a differs from its checksum; remove"):
        KIND.read_checked(tmp_path, "a", content_digest(b"two"))
    with pytest.raises(Mistake, match="is damaged or foreign: .*No such file"):
        KIND.read_checked(tmp_path, "b", content_digest(b"one"))


def test_the_first_refused_files_are_named_and_the_others_counted():
    refused = pd.DataFrame(
        dict(path=list("abcd"), reason=["cut short", "empty", "empty", "no image"], label=0)
    )
    assert quarantine_lines(refused, 3) == ["  a: cut short", "  b: empty", "  c: empty", "  and 1 more"]
    assert quarantine_lines(refused[:3], 3) == ["  a: cut short", "  b: empty", "  c: empty"]
    assert first_reasons(refused) == "a: cut short; b: empty; c: empty"


def test_what_is_left_of_others_goes_and_one_s_own_stays(tmp_path):
    for name in ("partial_1", "partial_2", "other"):
        (tmp_path / name / "deep").mkdir(parents=True)
    remove_partials(tmp_path, but=tmp_path / "partial_2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "partial_2"]
    remove_partials(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_arrays_are_there_whole_or_not_at_all(tmp_path, monkeypatch):
    arrays = {"a": np.arange(3), "b": np.zeros((2, 2), "f4")}
    write_arrays_durably(tmp_path / "x.npz", arrays)
    with np.load(tmp_path / "x.npz") as file:
        assert all(np.array_equal(file[name], arrays[name]) for name in arrays)
    monkeypatch.setattr(os, "fsync", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_arrays_durably(tmp_path / "y.npz", arrays)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_the_state_of_files_in_their_order_and_of_those_that_are_gone(tmp_path):
    for number in range(300):  # more than are asked before threads may help
        (tmp_path / f"{number}").write_bytes(bytes(number))
    paths = [str(tmp_path / str(number)) for number in range(299, -1, -1)] + [str(tmp_path / "gone")]
    found = statuses(paths)
    assert [size for size, _ in found] == [*range(299, -1, -1), -1]
    assert found[0][1] == os.stat(paths[0]).st_mtime_ns
