"""GalaxiesML into a store, beside h5py with astropy and with PIL:
images a second, memory, and whether any is lost when it is killed.

    python benchmarks/galaxiesml_speed.py
    python benchmarks/galaxiesml_speed.py --objects 120000 --folder /scratch

A file with the real list of keys, 5 images of 64x64 an object, is made in a temporary folder and stays in the
page cache. Each side converts in a process of its own; they take turns, the least CPU time (user and system,
without imports) counts. Ours is packing as `convert.py galaxiesml` does it, checksums and fsync included,
with one process. The peers read all images at once, as the script that this replaces did, and write a file an
image: FITS in float32 by astropy, or an 8-bit PNG by PIL, stretched from least to largest and for 224x224
    resampled by LANCZOS; their metadata becomes a CSV. They get fewer objects, the same for each turn.
Then ours is killed (SIGKILL) half way, run again, and every pixel of the store is compared with the file.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

# Nothing large here: a process begins its peak of memory with the size of the one that started it.
from table import Row, show  # noqa: E402  the path above comes first
from utils import config  # noqa: E402
from utils.mistake import Mistake  # noqa: E402

BANDS, SIDE, REQUESTED = 5, 64, 224  # the last: --image-size of the script that is replaced
OBJECT_BYTES = BANDS * SIDE * SIDE * 4
MEMORY = 1000.0  # MB


@dataclass(frozen=True)
class Config:
    objects: int = 20_000  # of the file that is packed; 120,000 are 9.8 GB, and as much again for the store
    peer_objects: int = 1000  # of the file that the peers convert
    repeats: int = 3  # turns of each side; the fastest counts
    folder: str = ""  # where a temporary folder is made; empty: the system's
    json: str = ""  # also write the rows to this file

    def __post_init__(self):
        if min(self.objects, self.peer_objects, self.repeats) < 1:
            raise Mistake(
                f"objects {self.objects}, peer_objects {self.peer_objects}, repeats {self.repeats}: expected "
                "at least 1 of each"
            )


def write(path: Path, objects: int) -> None:
    """So many objects of noise with every column of the real file."""
    import h5py
    import numpy as np

    from data.catalogues.galaxiesml import OF_A_BAND, SCALARS

    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        image = file.create_dataset("image", (objects, BANDS, SIDE, SIDE), "f4")
        for first in range(0, objects, 1000):
            count = min(1000, objects - first)
            image[first : first + count] = rng.standard_normal((count, BANDS, SIDE, SIDE), dtype=np.float32)
        file["object_id"] = 36407192763826387 + 4 * rng.permutation(objects)
        file["skymap_id"] = rng.integers(0, 10**6, objects)
        file["specz_name"] = np.array([f"DEEP3-{row}" for row in range(objects)], dtype="S")
        file["specz_flag_homogeneous"] = rng.random(objects) < 0.9
        for key in (*SCALARS, *(f"{band}_{name}" for band in "grizy" for name in OF_A_BAND)):
            if key not in file:
                file[key] = rng.uniform(
                    0.01, 4, (objects, 2) if key[1:7] == "_coord" and key.count("_") == 2 else objects
                )


def ours(path: Path, out: Path, side: int) -> None:
    from hashlib import blake2b

    from data.catalogues.galaxiesml import open_source
    from data.cutouts.store import pack_cutouts

    source = open_source(path, image_size=side if side != SIDE else 0)
    status = os.stat(path)
    digest = blake2b(
        repr((source.recipe, status.st_size, status.st_mtime_ns)).encode(), digest_size=16
    ).hexdigest()
    pack_cutouts(source.index, out, source.shape, 1, digest, source=source)


def by_astropy(path: Path, out: Path, side: int) -> None:
    """A FITS file an image, float32."""
    from astropy.io import fits

    def save(image, stem: str) -> None:
        fits.PrimaryHDU(image).writeto(f"{stem}.fits")

    one_by_one(path, out, save)


def by_pil(path: Path, out: Path, side: int) -> None:
    """An 8-bit PNG an image."""
    import numpy as np
    from PIL import Image

    def save(image, stem: str) -> None:
        image = (image - image.min()) / (image.max() - image.min() + 1e-8)
        picture = Image.fromarray((image * 255).astype(np.uint8))
        (picture.resize((side, side), Image.LANCZOS) if side != SIDE else picture).save(f"{stem}.png")

    one_by_one(path, out, save)


def one_by_one(path: Path, out: Path, save) -> None:
    """As a script does it: all images into memory, a file for each, a row of the CSV for each object."""
    import h5py
    import pandas as pd

    out.mkdir()
    with h5py.File(path) as file:
        images, ids, rows = file["image"][:], file["object_id"][:], []
        columns = {
            name: file[f"i_{name}"][:] for name in ("sersic_index", "half_light_radius", "ellipticity")
        }
        columns["redshift"] = file["specz_redshift"][:]
    for number, (object_images, name) in enumerate(zip(images, ids)):
        for band, image in zip("grizy", object_images):
            save(image, f"{out}/{name}_{band}")
        rows.append(
            {
                "object": name,
                "source_catalog": "GalaxiesML",
                "instrument": "HSC",
                "bands": "grizy",
                **{column: float(values[number]) for column, values in columns.items()},
            }
        )
    pd.DataFrame(rows).to_csv(out / "metadata.csv", index=False)


def compare(path: Path, out: Path) -> dict[str, float]:
    """Objects that are not the same in the store and in the file:
    their id, the sum of an image, any bit of a pixel.
    """
    import h5py
    import numpy as np

    from data.cutouts.store import open_store

    store = open_store(out)
    with h5py.File(path) as file:
        image, ids = file["image"], file["object_id"][:].astype(str)
        lost = np.zeros(len(ids), dtype=bool)
        names = store.index["object"].to_numpy().reshape(-1, BANDS)
        lost |= (
            (names != ids[:, None]).any(1)
            | (store.metadata["object"].to_numpy() != ids)
            | ~store.good.reshape(-1, BANDS).all(1)
        )
        sums = 0.0
        for first in range(0, len(ids), 500):
            expected = image[first : first + 500]
            found = np.asarray(store.pixels[first * BANDS : (first + len(expected)) * BANDS]).reshape(
                expected.shape
            )
            sums = max(
                sums, float(np.abs(found.sum((2, 3), np.float64) - expected.sum((2, 3), np.float64)).max())
            )
            lost[first : first + 500] |= (found.view(np.uint32) != expected.view(np.uint32)).any((1, 2, 3))
    return dict(lost=int(lost.sum()), sums=sums)


def compare_fits(path: Path, out: Path) -> dict[str, float]:
    """Images of the store and of the peer's FITS files that differ."""
    import numpy as np
    from astropy.io import fits

    from data.cutouts.store import open_store

    store = open_store(path)
    rows = zip(store.index["object"], store.index["band"], store.pixels)
    return dict(
        differ=sum(
            np.asarray(fits.getdata(out / f"{name}_{band}.fits"), "f4").tobytes() != image.tobytes()
            for name, band, image in rows
        )
    )


def compare_flux(path: Path, out: Path) -> dict[str, float]:
    """The largest change of an image's flux by resampling, over the sum of its |values|."""
    import h5py
    import numpy as np

    from data.cutouts.store import open_store

    with h5py.File(path) as file:
        images = file["image"][:].reshape(-1, SIDE, SIDE).astype(np.float64)
    change = np.array([image.sum(dtype=np.float64) for image in open_store(out).pixels]) - images.sum((1, 2))
    return dict(change=float((np.abs(change) / np.abs(images).sum((1, 2))).max()))


def stage(name: str, arguments: list) -> None:
    """What a process of its own does; prints what it knows of itself as JSON."""
    import astropy.io.fits  # noqa: F401  so that imports are not counted
    import h5py  # noqa: F401
    import pandas  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    from PIL import Image, PngImagePlugin  # noqa: F401

    import data.catalogues.galaxiesml
    import data.cutouts.store  # noqa: F401

    imports, start = os.times(), time.perf_counter()
    result = (
        globals()[name](
            *(Path(argument) if isinstance(argument, str) else argument for argument in arguments)
        )
        or {}
    )
    end = os.times()
    print(
        "\n"
        + json.dumps(
            dict(
                cpu=end.user + end.system - imports.user - imports.system,
                wall=time.perf_counter() - start,
                **result,
            )
        )
    )


def started(name: str, *arguments: Path | int, out) -> subprocess.Popen:
    given = [argument if isinstance(argument, int) else str(argument) for argument in arguments]
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import galaxiesml_speed; "
        f"galaxiesml_speed.stage({name!r}, {given!r})"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=out,
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def in_own_process(name: str, *arguments: Path | int) -> dict[str, float]:
    """What it says of itself (cpu, wall seconds, ...), and `memory`: its peak resident bytes."""
    with tempfile.TemporaryFile("w+") as out:
        process = started(name, *arguments, out=out)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        said = out.read().strip().splitlines() or ["it said nothing"]
    if status:
        raise Mistake(f"{name} failed: {said[-1]}")
    return dict(json.loads(said[-1]), memory=used.ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def killed_half_way(path: Path, out: Path, blocks: int) -> int:
    """Starts packing and kills it when half of the blocks are done. Returns: how many were."""
    with tempfile.TemporaryFile("w+") as said:
        process = started("ours", path, out, SIDE, out=said)
        while process.poll() is None and len(list(out.glob("partial_*/block_*.json"))) < blocks // 2:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    if (out / "manifest.json").exists():
        raise Mistake("packing was done before it could be killed: give more --objects")
    return len(list(out.glob("partial_*/block_*.json")))


def measure(options: Config) -> list[Row]:
    where = options.folder or tempfile.gettempdir()
    needed, free = (
        2 * options.objects * OBJECT_BYTES + 20 * options.peer_objects * OBJECT_BYTES,
        shutil.disk_usage(where).free,
    )
    if free < needed:
        raise Mistake(
            f"{where!r} has {free:,} bytes free, {options.objects:,} objects need {needed:,}: give --folder "
            "or fewer --objects"
        )
    with tempfile.TemporaryDirectory(dir=where) as temporary:
        folder = Path(temporary)
        large, small, out = folder / "large.hdf5", folder / "small.hdf5", folder / "out"
        in_own_process("write", large, options.objects)
        in_own_process("write", small, options.peer_objects)
        sides = {
            "ours": ("ours", large, SIDE, options.objects),
            "astropy": ("by_astropy", small, SIDE, options.peer_objects),
            "pil": ("by_pil", small, SIDE, options.peer_objects),
            "ours 224": ("ours", small, REQUESTED, options.peer_objects),
            "pil 224": ("by_pil", small, REQUESTED, options.peer_objects),
        }
        rates, memory, change, differ = dict.fromkeys(sides, 0.0), 0.0, 0.0, -1
        print(f"{'':10}{'images':>10}{'CPU s':>9}{'wall s':>9}{'images/CPU s':>14}{'peak MB':>9}")
        for _ in range(options.repeats):
            for side, (name, path, size, objects) in sides.items():
                found = in_own_process(name, path, out, size)
                rates[side] = max(rates[side], BANDS * objects / found["cpu"])
                rate = BANDS * objects / found["cpu"]
                print(
                    f"{side:10}{BANDS * objects:10,}{found['cpu']:9.2f}{found['wall']:9.2f}{rate:14,.0f}"
                    f"{found['memory'] / 1e6:9.0f}",
                    flush=True,
                )
                if side == "ours":
                    memory = max(memory, found["memory"] / 1e6)
                if side == "ours 224" and not change:
                    change = in_own_process("compare_flux", path, out)["change"]
                if side == "astropy" and differ < 0:
                    in_own_process("ours", small, folder / "same", SIDE)
                    differ = in_own_process("compare_fits", folder / "same", out)["differ"]
                shutil.rmtree(out)
        blocks = -(-BANDS * options.objects // 1024)
        done = killed_half_way(large, out, blocks)
        in_own_process("ours", large, out, SIDE)
        after = in_own_process("compare", large, out)
    count, peers = (
        f"{BANDS * options.peer_objects:,} images",
        {name: f"h5py + {name}" for name in ("astropy", "PIL")},
    )
    same = f"{count} to the bit" if not differ else f"{differ} of {count} differ"
    return [
        Row(
            "GalaxiesML 64x64 into a store",
            "images/s",
            rates["ours"],
            f"{peers['astropy']}, a FITS file each",
            rates["astropy"],
            aim=5,
            equal=same,
        ),
        Row(
            "GalaxiesML 64x64 into a store",
            "images/s",
            rates["ours"],
            f"{peers['PIL']}, a PNG each",
            rates["pil"],
            aim=5,
            equal="theirs keeps 8 bits",
        ),
        Row(
            "GalaxiesML 64x64 resampled to 224x224",
            "images/s",
            rates["ours 224"],
            f"{peers['PIL']}, LANCZOS, a PNG each",
            rates["pil 224"],
            aim=5,
            equal=f"flux of ours changes by {change:.0e} at most; theirs keeps 8 bits",
        ),
        Row(f"peak memory of packing {BANDS * options.objects:,} images", "MB", memory, limit=MEMORY),
        Row(
            f"objects of {options.objects:,} that differ after a kill at block {done} of {blocks}",
            "objects",
            after["lost"],
            limit=0,
            equal=f"ids, sums of pixels (largest difference {after['sums']:g}), every bit",
        ),
    ]


def main(argv: list[str]) -> None:
    (options,) = config.read_options(argv, Config)
    show(measure(options), options.json)


if __name__ == "__main__":
    config.run_script(main)
