"""Shuffled batches from a local store beside LitData, MosaicML Streaming and WebDataset:
samples a second of one thread.

    python benchmarks/shuffled_reads.py
    python benchmarks/shuffled_reads.py --samples 50000 --turns 9

All sides hold the same cutouts, 41x41 float32 with a label and an id, in the page cache, and read them in the
process itself (no workers). Ours is what train.py does: the order and the batches of data/order.py over a
store that was packed from FITS files. The peers are used as their own pages say,
and in the fastest of the forms that these name:
LitData: optimize to numpy arrays (from tensors it reads a tenth as fast), StreamingDataset,
    StreamingDataLoader.
MosaicML: MDS shards of arrays of a fixed shape, StreamingDataset, torch's DataLoader.
WebDataset: tar shards of npy and cls, shards and a buffer of 1,000 samples shuffled, batched, WebLoader.
Ours is one permutation of all samples; LitData and WebDataset shuffle windows of 256 and 1,000 at a time.
The epochs of the sides take turns; the least process time counts (it holds the peers' threads too). "First
epoch" is ours after the store is opened anew, when each page is touched, and each block checked, for the
first time; "later epochs" the next one. The peers' figure is the fastest of all their epochs.
Compared is one more epoch of each side, sample by sample.
"""

import importlib.metadata
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402  the path above comes first
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from data.cutouts.buckets import inventory_of_buckets  # noqa: E402
from data.cutouts.examples import make_examples  # noqa: E402
from data.cutouts.store import open_store, pack_cutouts  # noqa: E402
from data.order import ShuffledEpochs, batches  # noqa: E402
from models.timm_door import import_torchvision  # noqa: E402
from simulations.challenge import files as challenge  # noqa: E402
from table import Row, show  # noqa: E402
from utils import config  # noqa: E402

SIDE = 41
AIMS = {"litdata": 20, "mosaicml-streaming": 100, "webdataset": 200}
Epoch = Iterator[tuple[Tensor, Tensor]]  # (image [B, 1, 41, 41] or [B, 41, 41], id [B]) of each batch


@dataclass(frozen=True)
class Config:
    samples: int = 20_000  # in the store
    batch: int = 128  # samples a batch
    turns: int = 5  # of each side; the fastest counts
    seed: int = 0  # of pixels and order
    json: str = ""  # also write the rows to this file


def write_store(folder: Path, options: Config) -> Path:
    """A store packed from files of the challenge's form. Their pixels are noise:
    what they show costs nothing to read.
    """
    files = folder / "fits" / "slsim_lenses"
    files.mkdir(parents=True)
    generator = np.random.default_rng(options.seed)
    for number in range(options.samples):
        name, image = f"D1_L_{number:08d}", generator.standard_normal((SIDE, SIDE))
        (files / f"{name}_g.fits").write_bytes(challenge.encode(files.name, name, 1, "g", image))
    return pack_cutouts(
        inventory_of_buckets({files.name: files}), folder / "store", say=lambda line: None
    ).directory


class Ours:
    """Epoch after epoch of a store that is opened anew."""

    def __init__(self, directory: Path, options: Config):
        store = open_store(directory)
        self.data = make_examples(store, store.good, ["g"])
        self.order = ShuffledEpochs(len(self.data), options.batch, options.seed)
        self.epoch = 0

    def __call__(self) -> Epoch:
        first = self.epoch * self.order.steps_per_epoch
        self.epoch += 1
        steps = range(first, first + self.order.steps_per_epoch)
        for share in batches(self.data, self.order, steps, workers=0, device=torch.device("cpu"), lanes=1):
            yield share.batch["image"], share.batch["index"]


def sample(pixels: str, number: int) -> dict:
    return {"image": np.array(np.load(pixels, mmap_mode="r")[number]), "label": 1.0, "index": number}


def litdata_epochs(pixels: str, folder: Path, options: Config) -> Callable[[], Epoch]:
    import litdata

    litdata.optimize(
        partial(sample, pixels),
        list(range(options.samples)),
        str(folder),
        chunk_bytes="64MB",
        num_workers=1,
        verbose=False,
    )
    data = litdata.StreamingDataset(str(folder), shuffle=True, seed=options.seed)
    loader = litdata.StreamingDataLoader(data, batch_size=options.batch, num_workers=0)
    return lambda: ((batch["image"], batch["index"]) for batch in loader)


def streaming_epochs(pixels: str, folder: Path, options: Config) -> Callable[[], Epoch]:
    from streaming import MDSWriter, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()  # what a run that was killed left behind would stop this one
    images = np.load(pixels, mmap_mode="r")
    with MDSWriter(
        out=str(folder),
        columns={"image": f"ndarray:float32:{SIDE},{SIDE}", "label": "float32", "index": "int64"},
    ) as writer:
        for number, image in enumerate(images):
            writer.write({"image": image, "label": np.float32(1), "index": np.int64(number)})
    data = StreamingDataset(
        local=str(folder), shuffle=True, shuffle_seed=options.seed, batch_size=options.batch
    )
    loader = torch.utils.data.DataLoader(data, batch_size=options.batch, num_workers=0)
    return lambda: ((batch["image"], batch["index"]) for batch in loader)


def webdataset_epochs(pixels: str, folder: Path, options: Config) -> Callable[[], Epoch]:
    import webdataset

    folder.mkdir()
    # a time of change in fractions of a second would put two more headers before each file:
    # a third of the speed
    with webdataset.ShardWriter(
        str(folder / "%06d.tar"), maxcount=10_000, maxsize=2**26, verbose=0, mtime=0
    ) as writer:
        for number, image in enumerate(np.load(pixels, mmap_mode="r")):
            writer.write({"__key__": f"{number:08d}", "npy": np.array(image), "cls": 1})
    shards = sorted(map(str, folder.glob("*.tar")))
    data = (
        webdataset.WebDataset(shards, shardshuffle=100)
        .shuffle(1000)
        .decode()
        .to_tuple("npy", "cls", "__key__")
        .batched(options.batch)
    )
    loader = webdataset.WebLoader(data, batch_size=None, num_workers=0)
    return lambda: ((image, torch.tensor([int(key) for key in keys])) for image, _, keys in loader)


PEERS = {"litdata": litdata_epochs, "mosaicml-streaming": streaming_epochs, "webdataset": webdataset_epochs}


def seconds(epoch: Epoch, samples: int) -> float:
    start = time.process_time()
    seen = sum(len(index) for _, index in epoch)
    taken = time.process_time() - start
    if seen != samples:
        raise RuntimeError(f"an epoch of {seen} samples, not {samples}")
    return taken


def compared(epoch: Epoch, images: Tensor) -> str:
    """Whether an epoch holds each sample once, with the pixels of its id, and not in order."""
    seen, equal = [], True
    for image, index in epoch:
        seen.append(torch.as_tensor(index))
        equal &= torch.equal(torch.as_tensor(image).view(-1, SIDE, SIDE), images[seen[-1]])
    order, ascending = torch.cat(seen), torch.arange(len(images))
    once = torch.equal(order.sort().values, ascending)
    verdict = f"each id once: {'yes' if once else 'NO'}, pixels {'bit-equal' if equal else 'DIFFER'}"
    return verdict + (", NOT SHUFFLED" if torch.equal(order, ascending) else "")


def peers(pixels: str, folder: Path, options: Config) -> dict[str, Callable[[], Epoch]]:
    """The peers that are installed, their shards written."""
    found = {}
    for name, epochs_of in PEERS.items():
        try:
            # two of them import it, and the one of PyPI may not fit a CPU build of torch
            import_torchvision()
            found[name] = epochs_of(pixels, folder / name, options)
        except (ImportError, ValueError) as error:
            print(
                f"{name} is not measured ({error}): install it as requirements-benchmarks.txt says",
                file=sys.stderr,
            )
    return found


def measure(options: Config) -> list[Row]:
    torch.set_num_threads(1)
    # MDS gives such to the DataLoader
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        directory = write_store(folder, options)
        pixels = str(directory / "pixels.npy")
        theirs = peers(pixels, folder, options)
        first, later, least = [], [], {name: [] for name in theirs}
        for _ in range(options.turns):
            ours = Ours(directory, options)
            first.append(seconds(ours(), options.samples))
            later.append(seconds(ours(), options.samples))
            for name, epochs in theirs.items():
                least[name].append(seconds(epochs(), options.samples))
        images = torch.from_numpy(np.load(pixels))
        mine = compared(Ours(directory, options)(), images)
        equal = {name: f"ours {mine}; theirs {compared(epochs(), images)}" for name, epochs in theirs.items()}
    rows = []
    for when, times in (("first epoch", first), ("later epochs", later)):
        for name in PEERS:
            peer = f"{name} {importlib.metadata.version(name)}" if name in theirs else name
            rows.append(
                Row(
                    f"shuffled batches of {options.batch} cutouts, {when}",
                    "samples/s",
                    options.samples / min(times),
                    peer,
                    options.samples / min(least[name]) if name in theirs else None,
                    AIMS[name] if times is first else None,
                    equal=equal.get(name, f"ours {mine}"),
                )
            )
    return rows


def main(argv: list[str]) -> None:
    (options,) = config.read_options(argv, Config)
    show(measure(options), options.json)


if __name__ == "__main__":
    config.run_script(main)
