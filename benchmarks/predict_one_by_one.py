"""The loop that most would write from a folder of FITS cutouts to a CSV:
the peer of predict_speed.py, in a process of its own.

    python benchmarks/predict_one_by_one.py IMAGES WEIGHTS OUT.csv

Each file is read by fitsio and preprocessed by itself; a DataLoader stacks 128 for timm's convnextv2_atto.
Prints its process time from the first file to the last row, and the versions. Imports nothing that changes
how this process computes (utils would).
"""

import csv
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import fitsio  # noqa: E402  the path above comes first
import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402

from models.layers.preprocess import gaussian_kernels  # noqa: E402
from models.timm_door import build_timm, import_timm  # noqa: E402

BATCH, SIGMA, CLIP = 128, 1.0, 0.997


class OneByOne(Dataset):
    """Files of a folder, each read and preprocessed by itself: (image [1, 41, 41] float32, path)."""

    def __init__(self, folder: Path):
        self.paths = sorted(str(path) for path in folder.glob("*.fits"))
        self.kernel = gaussian_kernels([SIGMA]).view(1, 1, 1, -1)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[Tensor, str]:
        x = torch.from_numpy(fitsio.read(self.paths[number]).astype(np.float32))[None]
        reach = self.kernel.shape[-1] // 2
        x = F.conv2d(x, self.kernel, padding=(0, reach))
        x = F.conv2d(x, self.kernel.transpose(2, 3), padding=(reach, 0))
        x = x - x[x <= x.quantile(0.2)].median()
        x = x.clamp(max=x.quantile(CLIP))
        return (x - x.mean()) / (x.std(correction=0) + 1e-6), self.paths[number]


@torch.no_grad()
def predict_one_by_one(folder: Path, network: nn.Module, out: Path) -> None:
    with open(out, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "prob", "pred"])
        for images, paths in DataLoader(OneByOne(folder), batch_size=BATCH, num_workers=0):
            probs = network(images).squeeze(1).sigmoid().tolist()
            writer.writerows([path, prob, int(prob >= 0.5)] for path, prob in zip(paths, probs))


if __name__ == "__main__":
    images, weights, out = map(Path, sys.argv[1:])
    torch.set_num_threads(1)
    network = build_timm("convnextv2_atto").body.eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    start = time.process_time()
    predict_one_by_one(images, network, out)
    print(
        time.process_time() - start,
        f"fitsio {fitsio.__version__}, DataLoader, timm {import_timm().__version__}",
        sep="\t",
    )
