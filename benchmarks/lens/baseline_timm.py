"""The peer of the main job: timm's ConvNeXt V2 atto, AdamW, cosine, and nothing else,
on our split of the same cutouts.

    python benchmarks/lens/baseline_timm.py --data D --band_mode stack --epochs 20 --output_dir runs/baseline

What a user writes in an afternoon: pixels standardised for each band over the training set, timm's network
with its defaults, AdamW with a cosine, the last epoch's weights. No moving average, clipping or ensemble;
--normalise and --flips add what most users would add next. Writes pred_val.csv and pred_test.csv,
so that evaluate.py judges it as it does ours.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import numpy as np  # noqa: E402  the path above comes first
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from data.cutouts import buckets, examples, file_rows  # noqa: E402
from models.layers.augment import dihedral  # noqa: E402
from models.timm_door import import_timm  # noqa: E402
from tasks import lens  # noqa: E402
from tasks.lens import inputs  # noqa: E402
from utils import config  # noqa: E402


@dataclass(frozen=True)
class Config:
    output_dir: str = "runs/baseline"  # where the predictions go
    timm_name: str = "convnextv2_atto"  # timm's name of the network
    epochs: int = 20  # passes over the training split
    batch_size: int = 128  # examples a step
    lr: float = 1e-3  # peak learning rate
    weight_decay: float = 0.05  # of all parameters
    seed: int = 42  # of weights and order
    num_workers: int = 2  # processes that pack the cutouts
    normalise: bool = False  # standardise each image and band, instead of each band over the set
    flips: bool = False  # the eight symmetries of the square on each example


def main(argv: list[str]) -> None:
    options, task = config.read_options(argv, Config, lens.Config)
    packed = inputs.pack_inputs(buckets.inventory_of_buckets(task.sources()), task, options.num_workers)
    index = inputs.split_index(packed.index, task)
    bands = inputs.used_bands(index, task.bands)
    data = {
        name: examples.make_examples(packed, inputs.rows_of_split(index, name, task), bands, task.band_mode)
        for name in ("train", "val", "test")
    }
    torch.manual_seed(options.seed)
    train = data["train"].__getitems__(list(range(len(data["train"]))))
    images, labels = train["image"], train["label"]
    mean, std = images.mean((0, 2, 3), keepdim=True), images.std((0, 2, 3), keepdim=True)

    def scaled(x):
        if options.normalise:
            return (x - x.mean((2, 3), keepdim=True)) / (x.std((2, 3), keepdim=True) + 1e-6)
        return (x - mean) / std

    model = import_timm().create_model(options.timm_name, in_chans=images.shape[1], num_classes=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=options.weight_decay)
    steps = math.ceil(len(images) / options.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps * options.epochs)
    for epoch in range(options.epochs):
        model.train()
        total = 0.0
        for rows in torch.randperm(len(images)).split(options.batch_size):
            x = scaled(images[rows])
            x = dihedral(x, torch.randint(8, (len(x),))) if options.flips else x
            loss = F.binary_cross_entropy_with_logits(model(x).squeeze(1), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(rows)
        print(f"epoch {epoch + 1}/{options.epochs}  train_loss {total / len(images):.4f}", flush=True)

    model.eval()
    out = Path(options.output_dir)
    out.mkdir(parents=True, exist_ok=True)
    for name in ("val", "test"):
        with torch.no_grad():
            probs = [
                model(scaled(data[name].__getitems__(list(rows))["image"])).squeeze(1).sigmoid().numpy()
                for rows in np.array_split(np.arange(len(data[name])), max(1, len(data[name]) // 512))
            ]
        rows = inputs.rows_of_split(index, name, task)
        file_rows.write_frames_of_files(
            file_rows.frames_of_files(rows, data[name], np.concatenate(probs), 0.5, False),
            len(rows),
            out,
            name,
        )


if __name__ == "__main__":
    config.run_script(main)
