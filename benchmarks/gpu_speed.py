"""ConvNeXt V2 on a GPU: images a second in bf16 beside timm's,
and the wall time of five seeds on 10^6 cutouts.

    python benchmarks/gpu_speed.py
    python benchmarks/gpu_speed.py --ensemble_steps 2000 --ensemble_batch 1024
    python benchmarks/gpu_speed.py --no_compiled --ensemble_seeds 0

Pixels lie on the device. Each side is measured eager, compiled (`model.compile()`, what train.py's --compile
does) and with CUDA graphs, timm's in channels_last too; all run under the same autocast to bf16, as
predict.py and train.py do, with the same weights. A training step is that of train.py for all:
gather the batch, forward, backward, clip, fused AdamW, average of the weights; only the network differs.
Every side has the batch size that is fastest for it, and cuDNN may choose its algorithms (cudnn.benchmark).
Wall time of blocks of steps between two synchronisations, in turns, the fastest block of each. What each
gives first stands beside our network's in fp32. --preprocessed puts the challenge's preprocessing in front of
all.

The ensemble is train.py's loop, once for each seed: 700,000 cutouts to train on, 150,000 to validate, 150,000
to test, with preprocessing and augmentation, checkpoints and logs, its pixels noise. Without a GPU all of it
runs in a tiny size, only to show that it works, and no figure is given.
"""

import copy
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # noqa: E402, F401  before torch: it says how threads wait

import torch  # noqa: E402  the path above comes first
from table import Row, show  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn.utils import clip_grad_norm_  # noqa: E402

import train  # noqa: E402
from contract import DTYPES, Batch, Examples, InPrecision, Loss, Objective, Task  # noqa: E402
from losses.classification import binary_cross_entropy  # noqa: E402
from models.convnextv2 import ConvNeXtV2  # noqa: E402
from models.layers.preprocess import Preprocess  # noqa: E402
from models.timm_door import build_timm, import_timm  # noqa: E402
from tasks import lens  # noqa: E402
from tasks.lens import judge, losses  # noqa: E402
from utils import config  # noqa: E402
from utils.ema import Ema  # noqa: E402
from utils.optimizers import OptimizerConfig, parameter_groups  # noqa: E402
from utils.schedule import ScheduleConfig  # noqa: E402
from utils.seeding import seed_from  # noqa: E402

LIMITS = {"inference": 400_000, "training": 120_000}  # images a second of nano in bf16 on one H200
# torch.compile's mode of each
WAYS = {"eager": "", "compiled": "default", "compiled with CUDA graphs": "reduce-overhead"}
EXACT = "fp32"  # our network again, in fp32
SPLITS = {"train": 0.70, "val": 0.15, "test": 0.15}
RECIPE = lens.Config(drop_path=0.05, smoothing_mode="gaussian", gaussian_sigma=1.0, apply_normalization=True)


@dataclass(frozen=True)
class Config:
    size: str = "nano"  # of ConvNeXt V2
    precision: str = "bf16"  # fp32, bf16 or fp16, of both
    batches: list[int] = field(default_factory=lambda: [256, 1024, 4096, 16384])  # batch sizes to choose from
    images: int = 2**17  # of a block that is timed
    pool: int = 2**16  # different images on the device
    repeats: int = 3  # blocks of each side at its batch size; the fastest counts
    compiled: bool = True  # also compiled networks
    preprocessed: bool = False  # preprocessing in front of every network
    ensemble_seeds: int = 5  # networks to train; 0: no ensemble
    ensemble_cutouts: int = 1_000_000  # in the three splits together
    ensemble_batch: int = 1024  # cutouts a step
    ensemble_epochs: int = 20  # of each seed
    ensemble_steps: int = 0  # stop each seed after so many steps; 0: do the whole
    json: str = ""  # also write the rows to this file


TINY = Config(
    size="atto",
    batches=[4, 8],
    images=16,
    pool=32,
    repeats=1,
    ensemble_seeds=2,
    ensemble_cutouts=40,
    ensemble_batch=8,
    ensemble_epochs=2,
)


def build_sides(options: Config, device: torch.device) -> tuple[dict[str, nn.Module], str]:
    """Networks of the same weights by the name of their side,
    and whose the other ones are ("" without timm).
    """
    torch.manual_seed(0)
    built: dict[str, tuple[nn.Module, bool]] = {"ours": (ConvNeXtV2(options.size), False)}
    for name, parameter in built["ours"][0].named_parameters():
        if "grn" in name:
            nn.init.normal_(parameter, std=0.1)  # they start at zero
    try:
        peer = f"timm {import_timm().__version__}"
        for layout in ("", " channels_last"):
            network = build_timm(f"convnextv2_{options.size}").body
            network.load_state_dict(built["ours"][0].state_dict())
            built[f"timm{layout}"] = network, bool(layout)
    except ValueError as error:
        print(f"gpu_speed.py: {error}: the peer is not measured", file=sys.stderr)
        peer = ""
    sides = {}
    for name, (network, channels_last) in built.items():
        for how, mode in WAYS.items() if options.compiled else [("eager", "")]:
            side = sides[f"{name}, {how}"] = Whole(options.preprocessed, copy.deepcopy(network)).to(device)
            if channels_last:
                side.to(memory_format=torch.channels_last)
            if mode:  # inductor needs minutes on a CPU
                side.compile(**dict(mode=mode) if device.type == "cuda" else dict(backend="eager"))
    sides[EXACT] = Whole(options.preprocessed, built["ours"][0]).to(device)
    return sides, peer


class Whole(nn.Module):
    """`network`, `preprocessed` or not: pixels [B, 1, 41, 41] -> logit [B]."""

    def __init__(self, preprocessed: bool, network: nn.Module):
        super().__init__()
        self.preprocess, self.network = (
            Preprocess(smoothing="gaussian", gaussian_sigma=1.0) if preprocessed else None,
            network,
        )

    def forward(self, image: Tensor) -> Tensor:
        if self.preprocess is not None:
            B = len(image)
            image = self.preprocess(
                image, image.new_ones(B, 1, dtype=torch.bool), image.new_zeros(B, dtype=torch.int64)
            )
        return self.network(image).squeeze(1)


class Pool:
    """Images of noise on the device, and their labels."""

    def __init__(self, size: int, device: torch.device):
        generator = torch.Generator().manual_seed(0)
        self.label = torch.randint(2, (size,), generator=generator).float().to(device)
        self.image = torch.randn(size, 1, 41, 41, generator=generator).to(device)
        self.order = torch.randperm(size, generator=generator).to(device)

    def batch(self, step: int, size: int) -> Batch:
        """A gather on the device, as training with resident pixels does."""
        start = step * size % max(1, len(self.order) - size + 1)
        index = self.order[start : start + size]
        return dict(image=self.image[index], label=self.label[index])


def inference(network: nn.Module, pool: Pool, dtype: torch.dtype) -> Callable[[int, int], Tensor]:
    run = InPrecision(network.eval(), dtype)

    @torch.no_grad()
    def step(number: int, size: int) -> Tensor:
        return run(pool.batch(number, size)["image"])

    return step


def training(network: nn.Module, pool: Pool, dtype: torch.dtype) -> Callable[[int, int], Tensor]:
    """The step of train.py; it returns the loss and the norm of the gradient."""

    def loss(model: nn.Module, batch: Batch, step: int):
        return Loss(binary_cross_entropy(model(batch["image"]), batch["label"]), {})

    objective, ema, groups = (
        Objective(network.train(), loss, dtype),
        Ema(network, 0.999),
        parameter_groups(network.named_parameters(), 0.05),
    )
    optimizer, weights = (
        torch.optim.AdamW(groups, lr=3e-4, fused=True),
        [p for group in groups for p in group["params"]],
    )

    def step(number: int, size: int) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        value = objective(pool.batch(number, size), number).value.sum() / size
        value.backward()
        norm = clip_grad_norm_(weights, 1.0)
        optimizer.found_inf = 1 - norm.isfinite().float()
        optimizer.step()
        ema.update(number)
        return torch.stack([value.detach(), norm])

    return step


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def images_per_second(
    step: Callable[[int, int], Tensor], size: int, images: int, device: torch.device
) -> float:
    steps = -(-images // size)
    synchronise(device)
    start = time.perf_counter()
    for number in range(steps):
        step(number, size)
    synchronise(device)
    return steps * size / (time.perf_counter() - start)


def best_size(step: Callable[[int, int], Tensor], options: Config, device: torch.device) -> int:
    """The fastest of the batch sizes that fit."""
    rates = {}
    for size in options.batches:
        try:
            for number in range(3):  # compiles, and fills the caches of memory
                step(number, size)
            rates[size] = images_per_second(step, size, options.images, device)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
    return max(rates, key=rates.get)


def measure_kind(
    kind: str, make: Callable, asked: Config, options: Config, device: torch.device
) -> list[Row]:
    """Rows of what was `asked`, by a run of `options`, which are the same on a GPU."""
    sides, peer = build_sides(options, device)
    pool, of_gpu = Pool(options.pool, device), device.type == "cuda"
    steps = {
        name: make(network, pool, DTYPES["fp32" if name == EXACT else options.precision])
        for name, network in sides.items()
    }
    first = {name: step(0, min(options.batches)) for name, step in steps.items()}  # before any has trained
    exact, _ = first.pop(EXACT), steps.pop(EXACT)
    apart = {
        name: ((result - exact).abs().max() / exact.abs().max()).item() for name, result in first.items()
    }
    sizes, rates = (
        {name: best_size(step, options, device) for name, step in steps.items()},
        dict.fromkeys(steps, 0.0),
    )
    for _ in range(options.repeats):
        for name, step in steps.items():
            rates[name] = max(rates[name], images_per_second(step, sizes[name], options.images, device))
    what = "logits" if kind == "inference" else "loss and norm"
    for name, rate in rates.items():
        said = f"{rate:10,.0f} images/s at batch {sizes[name]:6,}" if of_gpu else "ran"
        print(
            f"{kind:10} {name:28}{said}; first {what} from fp32: {apart[name]:.1e} of the largest", flush=True
        )
    rows = []
    for how in WAYS if options.compiled else ["eager"]:
        ours, *theirs = [name for name in rates if name.endswith(f", {how}")]
        other = max(theirs, key=rates.get, default="")  # the faster of the two layouts
        layout = "channels_last" if "channels_last" in other and of_gpu else ""
        rows.append(
            Row(
                f"{asked.size} {asked.precision} {kind}, "
                f"{how}{', with preprocessing' if asked.preprocessed else ''}",
                "images/s",
                rates[ours] if of_gpu else None,
                " ".join(filter(None, [peer, how, layout])) if other else "",
                rates[other] if of_gpu and other else None,
                limit=LIMITS[kind]
                if (asked.size, asked.precision) == ("nano", "bf16") and how != "eager"
                else None,
                equal=f"first {what} from fp32: ours {apart[ours]:.1e}, theirs {apart[other]:.1e}"
                if of_gpu and other
                else "",
            )
        )
    return rows


class Noise(Examples):
    """Examples of a split: number i is one of 4,096 images of noise;
    raw pixels as those of data/cutouts/examples.py.
    """

    uniform = True  # so that they lie on the device whole

    def __init__(self, size: int):
        self.size, self.image = (
            size,
            torch.randn(min(size, 4096), 1, 41, 41, generator=torch.Generator().manual_seed(0)),
        )

    def __len__(self) -> int:
        return self.size

    def __getitems__(self, indices) -> Batch:
        index = torch.as_tensor(list(indices), dtype=torch.int64)
        return dict(
            image=self.image[index % len(self.image)],
            present=torch.ones(len(index), 1, dtype=torch.bool),
            label=(index % 2).float(),
            domain=torch.zeros_like(index),
            index=index,
        )

    def names(self, indices) -> list[str]:
        return [f"noise_{i}" for i in indices]


def plan(options: Config) -> tuple[dict[str, int], int, int, int]:
    """Cutouts of each split, epochs and steps of each seed, and the steps of the whole."""
    counts = {split: round(share * options.ensemble_cutouts) for split, share in SPLITS.items()}
    whole = -(-counts["train"] // options.ensemble_batch) * options.ensemble_epochs
    if not 0 < options.ensemble_steps < whole:
        return counts, options.ensemble_epochs, whole, whole
    # a shorter run has fewer cutouts an epoch
    epochs = -(-options.ensemble_steps * options.ensemble_batch // counts["train"])
    steps_an_epoch = options.ensemble_steps // epochs
    return counts | {"train": steps_an_epoch * options.ensemble_batch}, epochs, steps_an_epoch * epochs, whole


def ensemble(asked: Config, options: Config, device: torch.device) -> list[Row]:
    counts, epochs, _, _ = plan(options)
    data = {split: Noise(size) for split, size in counts.items()}
    synchronise(device)
    start = time.perf_counter()
    for seed in range(options.ensemble_seeds):
        torch.manual_seed(seed_from(seed, "weights"))
        task = Task(
            lens.build_network(replace(RECIPE, model_size=options.size), 1),
            data,
            losses.build_loss(RECIPE, len(data["train"])),
            partial(judge.measure, config=RECIPE),
            {"auc": "max"},
            judge.summarise,
        )
        told = train.TrainConfig(
            epochs=epochs,
            batch_size=options.ensemble_batch,
            precision=options.precision,
            patience=0,
            compile=options.compiled and device.type == "cuda",
            seed=seed,
        )
        with tempfile.TemporaryDirectory() as folder:
            schedule = ScheduleConfig(warmup_epochs=0.1)
            train.run(train.Configs(replace(told, save_dir=folder), OptimizerConfig(), schedule), task=task)
    synchronise(device)
    seconds = time.perf_counter() - start
    counts, epochs, steps, whole = plan(asked)
    what = (
        f"{asked.ensemble_seeds} seeds of {asked.size} "
        f"{asked.precision}{' compiled' if asked.compiled else ''}, each {steps:,} of {whole:,} steps of "
        f"{asked.ensemble_batch:,}, {epochs} times {counts['train']:,} + {counts['val']:,} cutouts, then "
        f"{counts['test']:,}: wall time"
    )
    return [Row(what, "s", seconds if device.type == "cuda" else None)]


def measure(asked: Config) -> list[Row]:
    device, options = torch.device("cuda" if torch.cuda.is_available() else "cpu"), asked
    if device.type == "cpu":
        print(
            "gpu_speed.py: no GPU is visible: its figures are not measured; a tiny size runs on the CPU to "
            "show that the code works",
            file=sys.stderr,
        )
        options = replace(
            TINY,
            precision=asked.precision,
            compiled=asked.compiled,
            preprocessed=asked.preprocessed,
            ensemble_seeds=min(asked.ensemble_seeds, 2),
            ensemble_steps=min(asked.ensemble_steps, 6),
        )
    else:
        print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}")
    torch.backends.cudnn.benchmark = True
    # all sides share one forward; over the limit they would silently run eager
    torch._dynamo.config.recompile_limit = 64
    rows = measure_kind("inference", inference, asked, options, device) + measure_kind(
        "training", training, asked, options, device
    )
    torch.backends.cudnn.benchmark = False  # as train.py leaves it
    return rows + (ensemble(asked, options, device) if options.ensemble_seeds else [])


def main(argv: list[str]) -> None:
    (options,) = config.read_options(argv, Config)
    show(measure(options), options.json)


if __name__ == "__main__":
    config.run_script(main)
