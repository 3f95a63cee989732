"""data/shard_order.py and data/tar_shards/stream.py: each example once an epoch among few shards at a time,
from disk or a server, resumed at any step.
"""

import json
import pickle
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st

from data.cutouts import examples, store
from data.order import batches, each_once
from data.shard_order import ShardedEpochs
from data.tar_shards import stream as streaming, writer
from data.tar_shards.stream import open_stream
from tests.data.tar_shards.test_writer import Images, packed, quiet
from utils.mistake import Mistake

CPU = torch.device("cpu")
BANDS = ["r", "g", "i", "z"]


@pytest.fixture
def there(tmp_path, monkeypatch):
    """A store of 40 objects, and its 8 shards of 5."""
    found = packed(tmp_path, Images(), monkeypatch)
    writer.write_shards(found, tmp_path / "shards", 5, say=quiet)
    return found


@pytest.fixture
def server(tmp_path):
    """(URL of the folder of the test, the paths asked for so far, those that are refused once)."""
    asked, refused = [], []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path.rpartition("/")[2])
            if "elsewhere" in self.path:
                self.send_response(302)
                self.send_header("Location", "file:///etc/passwd")
                self.end_headers()
            elif self.path in refused:
                refused.remove(self.path)
                self.send_error(503)
            else:
                super().do_GET()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path))) as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}", asked, refused
        found.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(streaming.time, "sleep", lambda _: None)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def reads(monkeypatch) -> list[int]:
    """The shards that are read from now on."""
    read, plain = [], streaming.read_shard

    def noted(place, manifest, number, *bands):
        read.append(number)
        return plain(place, manifest, number, *bands)

    monkeypatch.setattr(streaming, "read_shard", noted)
    return read


def same(batch, other):
    return batch.keys() == other.keys() and all(torch.equal(batch[name], other[name]) for name in batch)


@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=30),
    batch_size=st.integers(1, 70),
    lanes=st.sampled_from([1, 2, 4, 8]),
    window=st.integers(1, 5),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
def test_an_epoch_is_each_example_once_in_even_steps_and_few_shards(counts, batch_size, lanes, window, seed):
    try:
        order = ShardedEpochs(counts, batch_size, seed, lanes, window)
    except Mistake:
        assert sum(counts) == 0 or sum(counts) // -(-sum(counts) // batch_size) < lanes
        return
    shard_of = np.repeat(np.arange(len(counts)), counts)
    for epoch in range(2):
        steps = [order(epoch * order.steps_per_epoch + step) for step in range(order.steps_per_epoch)]
        assert sorted(np.concatenate(steps)) == list(range(sum(counts)))
        lengths = {len(step) for step in steps}
        assert max(lengths) <= batch_size and max(lengths) - min(lengths) <= 1
        touched = []
        for lane in range(lanes):
            mine = [shard_of[step[lane::lanes]] for step in steps]
            whole = np.concatenate(mine)
            touched.append(set(whole))
            at = {
                shard: (np.flatnonzero(whole == shard)[0], np.flatnonzero(whole == shard)[-1])
                for shard in set(whole)
            }
            for place in range(len(whole)):  # between its first and last example, a shard is in memory
                assert sum(first <= place <= last for first, last in at.values()) <= window
        for left, right in zip(touched, touched[1:]):  # neighbours share the shard on their border alone
            assert len(left & right) <= 1


@given(
    counts=st.lists(st.integers(1, 20), min_size=1, max_size=20),
    lanes=st.sampled_from([1, 2, 4]),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_any_step_is_at_hand_without_those_before(counts, lanes, data):
    whole = ShardedEpochs(counts, 8, 3, lanes, 2) if sum(counts) // -(-sum(counts) // 8) >= lanes else None
    if whole is None:
        return
    step = data.draw(st.integers(0, 3 * whole.steps_per_epoch))
    steps = [whole(number) for number in range(step + 3)]
    fresh = ShardedEpochs(counts, 8, 3, lanes, 2)
    assert all(np.array_equal(fresh(number), steps[number]) for number in (step, step + 2, step + 1))
    shard_of = np.repeat(np.arange(len(counts)), counts)
    for lane in range(lanes):  # what is read ahead is what is asked for
        ahead, asked = fresh.shards(step, [lane]), []
        for number in range(step, step + 3):
            asked += shard_of[whole(number)[lane::lanes]].tolist()
        foretold = [next(ahead) for _ in range(3 * len(counts) + 3)]
        assert set(asked) <= set(foretold) and asked[0] in foretold[:2]


def test_epochs_and_seeds_differ_and_lanes_have_their_own_shards():
    counts = [50] * 40
    order, other = ShardedEpochs(counts, 100, 0, 4), ShardedEpochs(counts, 100, 1, 4)
    assert not np.array_equal(order(0), other(0)) and not np.array_equal(order(0), order(20))
    lanes = [set(np.concatenate([order(step)[lane::4] for step in range(20)]) // 50) for lane in range(4)]
    assert [len(lane) for lane in lanes] == [10] * 4 and not set.intersection(*lanes)


def test_a_far_step_of_a_billion_examples_is_at_hand():
    order = ShardedEpochs([10_000] * 100_000, 256, 0, 8)
    indices = order(7 * order.steps_per_epoch + 3_000_000)
    assert (
        len(indices) in (255, 256)
        and indices.max() < 10**9
        and len(set(indices)) == len(indices)
        and len(set(indices // 10_000)) <= 8 * 4
    )


def test_it_is_refused_as_by_shuffled_epochs():
    with pytest.raises(Mistake, match="the training split is empty"):
        ShardedEpochs([0, 0], 8, 0)
    with pytest.raises(Mistake, match="cannot be shared by 4 lanes"):
        ShardedEpochs([5, 5], 3, 0, 4)


@pytest.mark.parametrize("band_mode", ["stack", "single"])
def test_the_examples_are_those_of_the_store(tmp_path, there, band_mode):
    stream = open_stream(tmp_path / "shards", BANDS, band_mode)
    expected = examples.make_examples(there, np.arange(len(there.index)), BANDS, band_mode)
    everything = range(len(expected))
    ours, theirs = stream.__getitems__(everything), expected.__getitems__(list(everything))
    if band_mode == "single":  # the store has files in their order, a sample its bands in ours
        key = [
            f"{name}_{label}_{domain}"
            for name, label, domain in zip(stream.names(everything), stream.label, stream.domain)
        ]
        other = [
            f"{name}_{label}_{domain}"
            for name, label, domain in zip(expected.names(everything), expected.label, expected.domain)
        ]
        assert len(set(key)) == len(key) and set(key) == set(other)
        turn = pd.Index(key).get_indexer(other)
        ours = {name: tensor[turn] for name, tensor in ours.items()} | {"index": ours["index"]}
    assert len(stream) == len(expected) and same(ours, theirs)
    assert stream.counts.sum() == len(stream)
    stream.follow(lambda step: everything, 0)  # a mode's own order: read when it is asked for
    assert stream.coming is None and (band_mode == "single" or list(stream.object) == list(expected.object))


def test_a_part_is_those_examples(tmp_path, there):
    stream = open_stream(str(tmp_path / "shards"), BANDS)
    chosen = stream.label >= 0
    part = stream.part(chosen)
    batch, whole = part.__getitems__([3, 0, 7]), stream.__getitems__(np.flatnonzero(chosen)[[3, 0, 7]])
    assert (
        torch.equal(batch["image"], whole["image"])
        and torch.equal(batch["label"], whole["label"])
        and batch["index"].tolist() == [3, 0, 7]
    )
    assert part.names([3]) == [stream.object[np.flatnonzero(chosen)[3]]] and part.counts.sum() == chosen.sum()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_a_run_resumed_at_any_step_sees_the_rest(tmp_path, there, workers, lanes):
    def run(first):
        data = open_stream(tmp_path / "shards", BANDS)
        order = data.epochs(8, 0, lanes)
        data.follow(order, first)
        return [batch for batch, *_ in batches(data, order, range(first, 12), workers, CPU, lanes)]

    whole = run(0)
    for first in (5, 11):
        assert all(same(ours, theirs) for ours, theirs in zip(run(first), whole[first:], strict=True))
    assert sorted(torch.cat([batch["index"] for batch in whole[:5]]).tolist()) == list(
        range(len(open_stream(tmp_path / "shards", BANDS)))
    )


def test_few_shards_are_held_each_is_read_once_an_epoch_and_ahead(tmp_path, there, monkeypatch):
    read, ahead = reads(monkeypatch), []
    data = open_stream(tmp_path / "shards", BANDS)
    order = ShardedEpochs(data.counts, 4, 0, 1, window=2)
    data.follow(order, 0)
    used = set()
    for _, _, ids in batches(data, order, range(order.steps_per_epoch), 0, CPU, 1):
        assert len(data.held) <= 4
        used |= set(data.shard[ids].tolist())
        ahead.append(len(data.held.keys() - used))
    assert sorted(read[:8]) == list(range(8)) and len(read) <= 8 + 2  # the two of the next epoch
    assert ahead[1] == 2 and max(ahead) == 2
    read.clear()
    data = open_stream(tmp_path / "shards", BANDS)  # resumed, it reads the shards of a window and no others
    data.follow(order, 6)
    data.__getitems__(order(6))
    data.threads[1].shutdown()
    assert len(read) <= 4


def test_validation_in_turn_reads_each_shard_once(tmp_path, there, monkeypatch):
    read = reads(monkeypatch)
    data = open_stream(tmp_path / "shards", BANDS)
    assert torch.cat([batch["index"] for batch in each_once(data, 7, 0, CPU, 1)]).tolist() == list(
        range(len(data))
    ) and read == list(range(8))


def test_it_travels_to_another_process_without_its_shards(tmp_path, there):
    data = open_stream(tmp_path / "shards", BANDS)
    data.follow(ShardedEpochs(data.counts, 8, 0), 0)
    whole = data.__getitems__(range(30))
    assert same(pickle.loads(pickle.dumps(data)).__getitems__(range(30)), whole)


def test_a_server_gives_the_same(tmp_path, there, server):
    url, asked, refused = server
    data, local = open_stream(f"{url}/shards", BANDS), open_stream(tmp_path / "shards", BANDS)
    assert same(data.__getitems__(range(30)), local.__getitems__(range(30))) and asked[:2] == [
        "manifest.json",
        "samples.parquet",
    ]
    refused += ["/shards/shard-000002.tar"] * 2  # busy twice
    data = open_stream(f"{url}/shards/", BANDS)
    assert same(data.__getitems__(range(30)), local.__getitems__(range(30)))


def test_what_a_server_does_wrong_is_one_line(tmp_path, there, server):
    url, asked, refused = server
    data = open_stream(f"{url}/shards", BANDS)
    refused += ["/shards/shard-000000.tar"] * 5
    with pytest.raises(Mistake, match=r"shard-000000.tar': cannot be read .*503.* after 3 attempts"):
        data.__getitems__([0])
    (tmp_path / "shards" / "shard-000001.tar").unlink()
    with pytest.raises(Mistake, match="shard-000001.tar': cannot be read .*404.* after 1 attempts"):
        data.__getitems__([6])
    with pytest.raises(Mistake, match="manifest.json': cannot be read .*404"):
        open_stream(url, BANDS)
    with pytest.raises(Mistake, match="cannot be read .*not allowed"):
        open_stream(f"{url}/elsewhere", BANDS)
    with pytest.raises(Mistake, match="Connection refused"):
        open_stream("http://127.0.0.1:9", BANDS)


@pytest.mark.parametrize("how", ["flipped", "cut", "longer", "gone", "another"])
@pytest.mark.parametrize("over", ["disk", "http"])
def test_a_damaged_shard_is_one_clear_line(tmp_path, there, server, how, over):
    path = tmp_path / "shards" / "shard-000001.tar"
    raw = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(
            {
                "flipped": raw[:2000] + bytes([raw[2000] ^ 1]) + raw[2001:],
                "cut": raw[:-600],
                "longer": raw + bytes(512),
                "another": (tmp_path / "shards" / "shard-000002.tar").read_bytes(),
            }[how]
        )
    data = open_stream(tmp_path / "shards" if over == "disk" else f"{server[0]}/shards", BANDS)
    data.__getitems__([0, 1])
    order = ShardedEpochs(data.counts, 8, 0)
    data.follow(order, 0)
    for workers in (0, 2):
        with pytest.raises(Mistake) as refusal:
            for _ in batches(data, order, range(order.steps_per_epoch), workers, CPU, 1):
                pass
        assert "shard-000001.tar" in str(refusal.value) and "\n" not in str(refusal.value)


def test_the_table_of_samples_must_be_that_of_the_manifest(tmp_path, there):
    folder = tmp_path / "shards"
    manifest, table = (
        json.loads((folder / "manifest.json").read_bytes()),
        (folder / "samples.parquet").read_bytes(),
    )
    (folder / "samples.parquet").write_bytes(table[:100] + bytes(8) + table[108:])
    with pytest.raises(Mistake, match="samples.parquet is not that of manifest.json"):
        open_stream(folder, BANDS)
    (folder / "samples.parquet").write_bytes(table + bytes(10))
    with pytest.raises(Mistake, match="samples.parquet.*more than"):
        open_stream(folder, BANDS)
    raw = b"PAR1 no parquet PAR1"
    (folder / "samples.parquet").write_bytes(raw)
    manifest["table"] = dict(size=len(raw), sha256=streaming.sha256(raw).hexdigest())
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Mistake, match="samples.parquet cannot be used"):
        open_stream(folder, BANDS)


OTHER_URLS = [
    "pipe:touch canary",
    "file:///etc/passwd",
    "ftp://host/x",
    "http://user:secret@host/x",
    "data:,x",
    "s3://bucket",
    "http:x",
]


@pytest.mark.parametrize("place", OTHER_URLS)
def test_commands_and_other_urls_are_not_opened(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Mistake, match="expected a folder, or http"):
        open_stream(place, BANDS)
    assert not list(tmp_path.iterdir())


def test_foreign_shards_are_to_be_packed_first(tmp_path):
    (tmp_path / "manifest.json").write_text('{"shards": []}')
    with pytest.raises(Mistake, match="another code's: pack the shards into a store"):
        open_stream(tmp_path, BANDS)


def test_a_stream_needs_no_store(tmp_path, there, monkeypatch):
    monkeypatch.setattr(store, "open_store", None)
    assert (
        len(open_stream(tmp_path / "shards", ["g"], "single")) == there.good[there.index["band"] == "g"].sum()
    )


def test_bands_by_other_names(there, tmp_path):
    plain = open_stream(tmp_path / "shards", BANDS)
    aliases = {"r": "VIS", "g": "HSC-G"}
    named = open_stream(tmp_path / "shards", ["VIS", "HSC-G", "i", "z"], aliases=aliases)
    same_rows = list(range(len(plain)))
    assert same(named.__getitems__(same_rows), plain.__getitems__(same_rows))
    assert "VIS" in open_stream(tmp_path / "shards", band_mode="single", aliases=aliases).bands
    # the table knows that it is the same band
    assert same(
        open_stream(tmp_path / "shards", ["HSC-R", "g"]).__getitems__(same_rows[:8]),
        open_stream(tmp_path / "shards", ["r", "g"]).__getitems__(same_rows[:8]),
    )
    with pytest.raises(Mistake, match="both are called 'r'"):
        open_stream(tmp_path / "shards", aliases={"g": "r"})
