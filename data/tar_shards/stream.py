"""Training straight from shards, on disk or behind http(s), without a store:
few shards in memory at a time, in an order that suits that.

    stream = open_stream("https://host/shards", bands=["g", "r", "i"], band_mode="stack")
    train = stream.part(rows)                                   # a split, say
    order = train.epochs(batch_size, seed, lanes)               # instead of ShuffledEpochs(len(train),
    batch_size, seed, lanes)
    train.follow(order, step)                                   # reads ahead what the steps from `step` on
    will ask for for share in batches(train, order, range(step, total), 0, device, lanes): ...

Everything is a function of (manifest, seed, step): a run resumed at any step reads the shards of the windows
it is in, and no others.
"""

import io
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from http.client import HTTPException, IncompleteRead
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from urllib import request
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit

import numpy as np
import pandas as pd
import torch
from pyarrow import ArrowException
from pyarrow.parquet import ParquetFile

from contract import Batch, Examples
from data.bands import check_apart, in_order, renamed_as, usual_name
from data.cutouts.buckets import DOMAINS
from data.shard_order import WINDOW, ShardedEpochs
from data.tar_shards.manifest import MOST_MANIFEST, checked_manifest
from data.tar_shards.members import npy_layout, npy_planes, strict_json
from data.tar_shards.records import checked_record
from data.tar_shards.tar import clean, open_plain, refused, samples
from utils import distributed
from utils.mistake import Mistake

MOST_SHARD = 2**32  # bytes: a shard is read whole into memory
TRIES, PATIENCE = 3, 60  # how often a server is asked; seconds that it may be silent


@dataclass(frozen=True)
class Decoded:
    """A shard in memory, S samples."""

    image: np.ndarray  # [S, C, H, W] float32, physical pixels, zero where the band is missing
    present: np.ndarray  # [S, C] bool


@dataclass(eq=False)
class Streamed(Examples):
    """Examples in shards, raw and in the order of the shards;
    the batches are those of data/cutouts/examples.py.

    E examples. `stream.part(rows)` has only some of them. Not more than `most_held` decoded shards are kept.
    """

    place: str  # folder or URL
    manifest: dict
    bands: tuple[str, ...]  # of each channel
    shard: np.ndarray  # [E] int64, not decreasing
    sample: np.ndarray  # [E] int64, of the shard
    channel: np.ndarray  # [E] int64, the one band that the example is; -1: all
    label: np.ndarray  # [E] float32
    domain: np.ndarray  # [E] int64
    object: np.ndarray  # [E] str
    names_here: Mapping[str, str]  # of the bands that are called otherwise in the shards
    most_held: int = 2 * WINDOW  # decoded shards
    held: dict[int, Future] = field(default_factory=dict)  # decoded shards
    # of these, in which batch one was used last, and first
    used: dict[int, tuple[int, int]] = field(default_factory=dict)
    unused: set[int] = field(default_factory=set)  # of these, those read ahead
    batch: int = 0
    coming: Iterator[int] | None = None  # shards to read ahead
    threads: tuple[int, ThreadPoolExecutor] | None = None  # and the process that they are of
    columns = MappingProxyType({})  # nothing more is known of the objects of shards

    def __len__(self) -> int:
        return len(self.shard)

    @property
    def counts(self) -> np.ndarray:
        """[shards] how many examples each has."""
        return np.bincount(self.shard, minlength=len(self.manifest["shards"]))

    def part(self, rows: np.ndarray) -> "Streamed":
        """Some examples, in the order of the shards. rows: [n] int64 or [E] bool."""
        rows = np.sort(np.arange(len(self))[rows])
        of_each = (
            array[rows]
            for array in (self.shard, self.sample, self.channel, self.label, self.domain, self.object)
        )
        return Streamed(
            self.place, self.manifest, self.bands, *of_each, self.names_here, most_held=self.most_held
        )

    def epochs(self, batch_size: int, seed: int, lanes: int) -> ShardedEpochs:
        """The order to train in."""
        return ShardedEpochs(self.counts, batch_size, seed, lanes)

    def follow(self, order: Callable[[int], np.ndarray], step: int) -> None:
        """Read ahead, in a thread, the window after the one in use, for this rank's lanes from `step` on;
        only `epochs` can be foreseen.
        """
        if not isinstance(order, ShardedEpochs):
            return
        each = order.lanes // distributed.world_size()
        mine = range(distributed.rank() * each, (distributed.rank() + 1) * each)
        # this window and the next
        self.coming = order.shards(step, mine)
        self.most_held = 2 * order.window * each

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        index = np.asarray(indices, dtype=np.int64)
        shard, sample, channel = self.shard[index], self.sample[index], self.channel[index]
        single = bool(len(index)) and channel[0] >= 0
        channels = 1 if single else len(self.bands)
        image = np.empty((len(index), channels, *self.manifest["shape"]), dtype=np.float32)
        present = np.ones((len(index), channels), dtype=bool)
        wanted = np.unique(shard).tolist()
        self.batch = self.batch + 1
        for number in [number for number in wanted if number in self.held] + [
            number for number in wanted if number not in self.held
        ]:
            decoded = self._decoded(number)
            those = np.flatnonzero(shard == number)
            if single:
                image[those, 0] = decoded.image[sample[those], channel[those]]
            else:
                image[those], present[those] = decoded.image[sample[those]], decoded.present[sample[those]]
        self._read_ahead()
        arrays = dict(
            image=image, present=present, label=self.label[index], domain=self.domain[index], index=index
        )
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def names(self, indices: Sequence[int]) -> list[str]:
        """What a person calls these examples: the object id, with its band if an example is one band."""
        return [
            f"{self.object[i]}_{self.bands[self.channel[i]]}" if self.channel[i] >= 0 else str(self.object[i])
            for i in indices
        ]

    def _decoded(self, shard: int) -> Decoded:
        if shard not in self.held or self.threads is None or self.threads[0] != os.getpid():
            self._ask_for(shard)
        self.used[shard] = self.batch, self.used.get(shard, (0, self.batch))[1]
        self.unused.discard(shard)
        return self.held[shard].result()

    def _ask_for(self, shard: int) -> None:
        if self.threads is None or self.threads[0] != os.getpid():  # threads do not survive a fork
            self.threads = (os.getpid(), ThreadPoolExecutor(1, "shards"))
            self.held = {}
            self.used = {}
            self.unused = set()
        while len(self.held) >= self.most_held:
            # the one of the oldest window: windows end one after another
            done = self.used.keys() - self.unused
            old = min(done, key=self.used.get) if done else next(iter(self.held))
            self.held.pop(old).cancel()
            self.used.pop(old, None)
            self.unused.discard(old)
        self.held[shard] = self.threads[1].submit(
            read_shard, self.place, self.manifest, shard, self.bands, self.names_here
        )

    def _read_ahead(self) -> None:
        if self.coming:
            for shard in islice(self.coming, max(0, self.most_held // 2 - len(self.unused))):
                if shard not in self.held:
                    self._ask_for(shard)
                self.unused.add(shard)

    def __getstate__(self) -> dict:
        return self.__dict__ | dict(held={}, used={}, unused=set(), coming=None, threads=None)


def open_stream(
    place: str | os.PathLike,
    bands: Sequence[str] = (),
    band_mode: str = "stack",
    aliases: Mapping[str, str] = MappingProxyType({}),
) -> Streamed:
    """The examples of a folder or URL of shards that data/tar_shards/writer.py has written;
    reads the manifest and the table of samples.

    bands, band_mode: as in data/cutouts/examples.py; no bands: all that are there. "stack": an object with a
        good image of any of the bands is an example; "single": each of these is;
        of a band that is there twice the first good one is used.
    aliases: other names of bands of the shards (data/bands.read_aliases).
    Raises: Mistake for no such shards or band, or damaged ones.
    """
    place = os.fspath(place)
    manifest = checked_manifest(fetched(place, "manifest.json", MOST_MANIFEST), place)
    if manifest is None:
        raise Mistake(
            f"{clean(place)}: manifest.json is another code's: pack the shards into a store, and write that "
            "as shards, to stream"
        )
    content = fetched(place, "samples.parquet", manifest["table"]["size"])
    if sha256(content).hexdigest() != manifest["table"]["sha256"]:
        raise Mistake(f"{clean(place)}: samples.parquet is not that of manifest.json: copy both again")
    table = _table(content, manifest, place)
    counts = [shard["samples"] for shard in manifest["shards"]]
    codes, texts = pd.factorize(table["good"])
    good = [json.loads(text) for text in texts]  # bands of each kind of sample
    written = {band for found in good for band in found}
    called = {band: aliases.get(band, aliases.get(usual_name(band), band)) for band in written}
    same = renamed_as(bands, called.values())
    called = {band: same.get(name, name) for band, name in called.items()}
    for number, found in enumerate(good):
        check_apart(((number,) for _ in found), found, [called[band] for band in found])
        good[number] = [called[band] for band in found]
    there = in_order(called.values())
    if missing := [band for band in bands if band not in there]:
        raise Mistake(f"--bands: {missing[0]!r} is not in the shards; there are {', '.join(there) or 'none'}")
    bands = list(bands) or there
    channels = [[c for c, band in enumerate(bands) if band in found] for found in good]
    if band_mode == "stack":
        chosen = np.flatnonzero(np.array([len(found) > 0 for found in channels], dtype=bool)[codes])
        channel = np.full(len(chosen), -1)
    else:
        each = np.array([len(found) for found in channels], dtype=np.int64)[codes]
        chosen = np.repeat(np.arange(len(table)), each)
        channel = np.array([c for code in codes.tolist() for c in channels[code]], dtype=np.int64)
    shard = np.repeat(np.arange(len(counts)), counts)[chosen]
    domain = pd.Index(DOMAINS).get_indexer(table["domain"].to_numpy(dtype=object)[chosen]).astype(np.int64)
    return Streamed(
        place,
        manifest,
        tuple(bands),
        shard,
        chosen - (np.cumsum(counts) - counts)[shard],
        channel,
        table["label"].to_numpy(dtype=np.float32)[chosen],
        domain,
        table["object"].to_numpy(dtype=object)[chosen],
        {band: name for band, name in called.items() if band != name},
    )


def _table(content: bytes, manifest: dict, place: str) -> pd.DataFrame:
    try:
        file = ParquetFile(io.BytesIO(content))
        if file.metadata.num_rows != manifest["samples"]:
            raise ValueError(f"{file.metadata.num_rows:,} rows, expected {manifest['samples']:,}")
        return file.read(["object", "domain", "label", "good"]).to_pandas()
    except (ArrowException, ValueError, OSError) as error:
        raise Mistake(
            f"{clean(place)}: samples.parquet cannot be used ({clean(str(error))}): write the shards again"
        ) from error


def read_shard(
    place: str,
    manifest: dict,
    number: int,
    bands: Sequence[str],
    names_here: Mapping[str, str] = MappingProxyType({}),
) -> Decoded:
    """A shard of a folder or URL, checked and decoded. Raises: Mistake in one line that names it."""
    told = manifest["shards"][number]
    where = f"{place.rstrip('/')}/{manifest['shards'][number]['name']}"
    if told["size"] > MOST_SHARD:
        raise Mistake(
            f"{where}: has {told['size']:,} bytes, expected at most {MOST_SHARD:,} to be streamed: write "
            "fewer objects a shard"
        )
    content = fetched(place, told["name"], told["size"])
    if sha256(content).hexdigest() != told["sha256"]:
        raise Mistake(f"{where}: differs from its checksum in manifest.json: it is damaged, copy it again")
    view = memoryview(content)
    shape = tuple(manifest["shape"])
    image = np.zeros((told["samples"], len(bands), *shape), dtype=np.float32)
    present = np.zeros((told["samples"], len(bands)), dtype=bool)
    count = 0
    for count, (key, parts) in enumerate(samples(io.BytesIO(content), len(content), where), 1):
        if count > told["samples"] or not {"npy", "json"} <= parts.keys():
            raise refused(
                where,
                key,
                f"is not of the {told['samples']:,} samples of .npy and .json that manifest.json tells of",
            )
        npy, text = (
            view[parts[suffix].start : parts[suffix].start + parts[suffix].size] for suffix in ("npy", "json")
        )
        layout = npy_layout(bytes(npy[:256]), len(npy), where, parts["npy"].name)
        if layout.dtype != np.dtype("<f4") or len(layout.shape) != 3 or layout.shape[1:] != shape:
            raise refused(
                where,
                key,
                f"is {layout.dtype} {list(layout.shape)}: expected float32 [C, {shape[0]}, {shape[1]}]",
            )
        record = checked_record(
            strict_json(bytes(text), where, parts["json"].name),
            manifest["images"],
            layout.shape[0],
            f"{where}: {key}",
        )
        good = [
            names_here.get(band, band) if not reason else None
            for band, reason in zip(record["bands"], record["reasons"])
        ]
        planes = npy_planes(npy, layout)
        if good == list(bands):  # mostly: one copy for all bands
            image[count - 1], present[count - 1] = planes, True
            continue
        for channel, band in enumerate(bands):
            if band in good:
                image[count - 1, channel], present[count - 1, channel] = planes[good.index(band)], True
    if count != told["samples"]:
        raise Mistake(
            f"{where}: has {count:,} samples, manifest.json tells of {told['samples']:,}: copy both again"
        )
    return Decoded(image, present)


def fetched(place: str, name: str, most: int) -> bytes:
    """A file of a folder, or of what is behind an http(s) URL; `most` bytes at most. Raises:
    Mistake that says why not.
    """
    if not urlsplit(place).scheme:
        with open_plain(Path(place) / name) as file:
            content = file.read(most + 1)
    else:
        content = _downloaded(place, name, most)
    if len(content) > most:
        raise Mistake(
            f"{clean(f'{place}/{name}')}: has more than {most:,} bytes: expected no more, it is not the file "
            "that was written"
        )
    return content


def _downloaded(place: str, name: str, most: int) -> bytes:
    parts = urlsplit(place)
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or "@" in parts.netloc
        or parts.query
        or parts.fragment
    ):
        raise Mistake(
            f"{clean(place)}: expected a folder, or http(s)://host/path without a password; no commands "
            "(pipe:) and other URLs"
        )
    url = f"{place.rstrip('/')}/{quote(name)}"
    # not urllib's own, which also opens files, FTP and data: URLs that a server redirects to
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler,
        request.HTTPHandler,
        request.HTTPSHandler,
        request.HTTPRedirectHandler,
        request.HTTPErrorProcessor,
        request.HTTPDefaultErrorHandler,
        request.UnknownHandler,
    ):
        opener.add_handler(handler())
    for attempt in range(TRIES):
        try:
            with opener.open(url, timeout=PATIENCE) as answer:
                content = answer.read(most + 1)
                if len(content) < min(int(answer.headers.get("Content-Length", 0)), most + 1):
                    raise IncompleteRead(content)
                return content
        except (OSError, HTTPException) as error:
            final = isinstance(error, HTTPError) and error.code < 500
            if final or attempt == TRIES - 1:
                raise Mistake(
                    f"{clean(url)}: cannot be read ({clean(str(error) or type(error).__name__)}) after "
                    f"{attempt + 1} attempts"
                ) from error
        time.sleep(0.5 * 2**attempt)
    raise AssertionError
