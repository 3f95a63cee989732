"""How time and memory grow with the number of objects: packing, one epoch of training, predicting,
each in a process of its own.

    python benchmarks/growth.py
    python benchmarks/growth.py --sizes 1000 3000 --folder /scratch

Each object is one FITS file of the challenge, an image of noise; half are lenses. The network is the smallest
that has the right shapes (one linear layer of the mean of 4x4 patches), so that what is measured is
everything but the network: all that could grow faster than the data. CPU time is user and system time of the
process (getrusage), less that of its imports; memory is its peak resident size (ru_maxrss), to which count
the pages of pixels.npy that it has mapped and not let go. The exponent is log(time ratio) / log(size ratio):
1 is linear, and less where what every process begins with still weighs. Memory that each further object takes
stands beside that of its row of the index in pandas.
"""

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

# Nothing that imports torch or pandas here: a process begins its peak with the size of the one that started
# it.
from table import Row, show  # noqa: E402  the path above comes first
from utils import config  # noqa: E402
from utils.config import several  # noqa: E402
from utils.mistake import Mistake  # noqa: E402

STAGES = ("write", "pack", "train", "predict")
# bytes that each further object may take: names and numbers, not its 6,724 bytes of pixels
MEMORY = dict(pack=1000.0, predict=1000.0)
# on the disk of one object: its file, its row of the store, what is written of it
FILE_BYTES = 20480 + 6724 + 1024


@dataclass(frozen=True)
class Config:
    sizes: list[int] = several(1_000, 10_000, 100_000)  # objects, rising
    folder: str = ""  # where a temporary folder is made; empty: the system's
    json: str = ""  # also write the rows to this file


def stage(name: str, folder: str, size: int) -> None:
    """What a process of its own does; prints what it knows of itself as JSON."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import utils  # noqa: F401  first, before torch: it says how threads wait

    import torch

    import model
    import predict
    import train

    torch.set_num_threads(1)
    model.MODELS["patches"] = model.ModelSpec(patches, "a linear layer of the mean of patches")
    data = ["--data", f"{folder}/data", "--store_dir", f"{folder}/stores", "--device", "cpu"]
    imports, row = cpu_seconds(), 0.0
    if name == "write":
        write(Path(folder) / "data", size)
    elif name == "pack":
        from data.cutouts import buckets
        from tasks import lens
        from tasks.lens import inputs

        task = lens.Config(data=f"{folder}/data", store_dir=f"{folder}/stores")
        index = inputs.pack_inputs(buckets.inventory_of_buckets(task.sources()), task, 1).index
        row = float(index.memory_usage(deep=True).sum()) / size
    elif name == "train":
        train.main(
            [
                *data,
                "--model",
                "patches",
                "--save_dir",
                f"{folder}/run",
                "--epochs",
                "1",
                "--apply_normalization",
            ]
        )
    else:
        predict.main(
            [
                *data,
                "--model_path",
                f"{folder}/run/best.pt",
                "--output_dir",
                f"{folder}/pred",
                "--which",
                "all",
            ]
        )
    print("\n" + json.dumps(dict(imports=imports, row=row)))


def patches(in_chans: int, num_classes: int = 1, drop_path_rate: float = 0.0):
    """A network that takes next to no time, [B, C, H, W] -> [B, num_classes]."""
    from torch import nn

    class Patches(nn.Module):
        feature_dim = 8

        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(
                nn.Conv2d(in_chans, 8, 4, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten()
            )
            self.classify = nn.Linear(8, num_classes)

    return Patches()


def write(root: Path, size: int) -> None:
    """So many objects in two buckets; the pixels of each are one of 64 images of noise."""
    import numpy as np

    from simulations.challenge import files

    images = np.random.default_rng(0).normal(size=(64, files.SIZE, files.SIZE)).astype(np.float32)
    for label, bucket in enumerate(("slsim_nonlenses", "slsim_lenses")):
        (root / bucket).mkdir(parents=True)
        for number in range(size // 2):
            name = files.object_name(bucket, "slsim", label, number)
            with open(root / bucket / f"{name}_g.fits", "wb", buffering=0) as file:
                file.write(files.encode(bucket, name, label, "g", images[number % len(images)] + label))


def cpu_seconds() -> float:
    """User and system time of this process."""
    times = os.times()
    return times.user + times.system


def in_own_process(name: str, folder: Path, size: int) -> dict[str, float]:
    """CPU seconds without imports, peak resident bytes, bytes of a row of the index (packing)."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import growth; "
        f"growth.stage({name!r}, {str(folder)!r}, {size})"
    )
    with open(folder / f"{name}.out", "w+") as out:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=out, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        said = out.read()
    if status:
        raise Mistake(f"{name} of {size} objects failed: {said.strip().splitlines()[-1]}")
    known = json.loads(said.strip().splitlines()[-1])
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return dict(
        cpu=used.ru_utime + used.ru_stime - known["imports"], memory=used.ru_maxrss * unit, row=known["row"]
    )


def measure(options: Config) -> list[Row]:
    where = options.folder or tempfile.gettempdir()
    needed, free = 2 * max(options.sizes) * FILE_BYTES, shutil.disk_usage(where).free
    if free < needed:
        raise Mistake(
            f"{where!r} has {free:,} bytes free, {max(options.sizes):,} objects need {needed:,}: give "
            "--folder or smaller --sizes"
        )
    found: dict[str, list[dict[str, float]]] = {name: [] for name in STAGES}
    print(
        f"{'':10}{'objects':>10}{'CPU s':>9}{'us each':>9}{'exponent':>10}{'peak MiB':>10}"
        f"{'bytes for each more':>21}"
    )
    for size in options.sizes:
        with tempfile.TemporaryDirectory(dir=where) as folder:
            for name in STAGES:
                now, past = in_own_process(name, Path(folder), size), found[name]
                if past:
                    before = options.sizes[len(past) - 1]
                    now["exponent"] = math.log(now["cpu"] / past[-1]["cpu"]) / math.log(size / before)
                    now["more"] = (now["memory"] - past[-1]["memory"]) / (size - before)
                past.append(now)
                print(
                    f"{name:10}{size:10,}{now['cpu']:9.2f}{1e6 * now['cpu'] / size:9.0f}"
                    + (f"{now['exponent']:10.2f}" if "exponent" in now else " " * 10)
                    + f"{now['memory'] / 2**20:10.0f}"
                    + (f"{now['more']:21,.0f}" if "more" in now else ""),
                    flush=True,
                )
    row = found["pack"][-1]["row"]
    print(
        f"a row of the index takes {row:.0f} bytes in pandas, the pixels of an object {4 * 41 * 41:,} bytes "
        "in the store"
    )
    last = f"{' to '.join(f'{size:,}' for size in options.sizes[-2:])} objects"
    names = dict(pack="packing", train="one epoch", predict="predicting")
    times = [
        Row(
            f"exponent of time, {what}, {last}",
            "",
            found[name][-1].get("exponent"),
            limit=1.1,
            equal=without_start([figures["cpu"] for figures in found[name]], options.sizes),
        )
        for name, what in names.items()
    ]
    return times + [
        Row(
            f"memory of each further object, {what}, {last}",
            "bytes",
            found[name][-1].get("more"),
            limit=MEMORY.get(name),
            equal=f"a row of the index: {row:.0f} bytes",
        )
        for name, what in names.items()
    ]


def without_start(times: list[float], sizes: list[int]) -> str:
    """The exponent of the last two increments, from which what every process begins with has dropped out."""
    if len(times) < 3 or times[-1] <= times[-2] or times[-2] <= times[-3]:
        return ""
    steps = [(times[i] - times[i - 1], sizes[i] - sizes[i - 1]) for i in (-2, -1)]
    exponent = math.log(steps[1][0] / steps[0][0]) / math.log(steps[1][1] / steps[0][1])
    return f"{exponent:.2f} of the increments {sizes[-3]:,} to {sizes[-2]:,} to {sizes[-1]:,}"


def main(argv: list[str]) -> None:
    (options,) = config.read_options(argv, Config)
    show(measure(options), options.json)


if __name__ == "__main__":
    config.run_script(main)
