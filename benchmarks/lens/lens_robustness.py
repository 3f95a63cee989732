"""What else may change besides the lens: metadata, the worst noise, the survey.
Three tables, each with and without the cure.

    python benchmarks/lens/lens_robustness.py --work runs/lens_models --cores 2 --epochs 10
    python benchmarks/lens/lens_robustness.py --work runs/lens_models --parts attacks --radii_linf 0.1 0.3 1 \
        --attacked 1000 --table_only

metadata   film_conditioned with and without --use_metadata. The simulated metadata (redshift, place,
           magnitudes) are drawn alike for lenses and look-alikes, so they say next to nothing. A column is
           added that does, by construction: line_snr, the significance of emission lines of a second redshift
           in a spectrum of the galaxy, by which SLACS found its lenses; a normal number of deviation 1 and
           mean LINES for lenses, 0 for others, unknown for a share UNKNOWN of both. Given the label it is
           independent of the image, so that its best use is known:
           to add its log likelihood ratio to the logit of the images.
attacks    robust_resnet, trained as it is, and from there for --tuned epochs more, once as it is, which is
           what the others are compared with, and with --adversarial in each norm. Accuracy on test objects as
           they are, and changed by `attack` of losses/adversarial.py, 20 steps, or by white noise, at t* of
           each network's validation. An L2 radius is what a matched filter would detect, in sigma. L-infinity
           moves every pixel of every band, in concert: at 1 rms up to sqrt(41 * 41 * 5) = 92 sigma.
domains    trained with the labels of slsim alone, without and with --domain_adversarial, and tested on hsc.
"""

import io
import json
import math
import sys
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks" / "lens")]

from contract import Batch  # noqa: E402  the path above comes first
from data.cutouts import metadata, store, truth  # noqa: E402
from data.cutouts.buckets import DOMAINS  # noqa: E402
from lens_models import RECIPES, Runs, aligned, asked, finished, in_parallel, inputs, judged, opened, trained  # noqa: E402
from evaluation import figures_of_merit, identity, predictions  # noqa: E402
from losses.adversarial import NORMS, attack  # noqa: E402
from physics.noise import noise_rms  # noqa: E402
from tasks.lens.losses import label_alone, network_outputs  # noqa: E402
from utils import config  # noqa: E402
from utils.config import several  # noqa: E402
from utils.seeding import seed_from  # noqa: E402

LINES, UNKNOWN = 1.5, 0.3
COLUMNS = ["redshift", "ra", "dec", *(f"magnitude_{band}" for band in "grizy"), "line_snr"]
PARTS = dict.fromkeys(("metadata", "attacks", "domains"))
STEPS = 20  # of the attacks that are judged
TUNING = "--lr 1e-3 --warmup_epochs 0 --adversarial_steps 3".split()


@dataclass(frozen=True)
class Config(Runs):
    parts: str = ",".join(PARTS)  # with commas between
    domain_models: str = "robust_resnet"  # networks of the part "domains", with commas between
    tuned: int = 3  # epochs on attacked images, after --epochs on images as they are
    radii_l2: list[float] = several(3.0)  # of --adversarial l2, a network each
    radii_linf: list[float] = several(0.1, 0.3)  # of --adversarial linf
    at_l2: list[float] = several(1.0, 3.0)  # radii of the attacks
    at_linf: list[float] = several(0.03, 0.1, 0.3, 1.0)
    attacked: int = 1000  # test objects

    def __post_init__(self):
        for part in self.parts.split(","):
            config.pick("parts", part, PARTS)
        for name in self.domain_models.split(","):
            config.pick("domain_models", name, RECIPES)


def by_object(folder: Path, which: str) -> pd.DataFrame:
    """object, domain, label, prob of the predictions of a split."""
    source = str(folder / f"pred_{which}.csv")
    table = identity.identified_rows(predictions.read_predictions(source), source, print)
    return predictions.fuse_predictions(table, ["object", "domain", "label"])


def runs(options: Config, kinds: dict[str, tuple], data: list[str] | None = None) -> dict[tuple, Path]:
    """(kind, seed) -> the directory of its finished run, of kinds:
    name -> (what `trained` calls it, its further flags).
    """
    jobs = {
        (kind, seed): lambda name=name, flags=flags, seed=seed: trained(
            options, name, seed, *flags, data=data
        )
        for seed in options.seeds
        for kind, (name, *flags) in kinds.items()
    }
    return {key: run for key, run in in_parallel(options, jobs).items() if (run / "results.json").exists()}


# ---- metadata


def with_metadata(options: Config, run: Path, known: bool) -> Path:
    """A store of the pixels that a run has seen, with COLUMNS for metadata; not `known`:
    all of them are missing.
    """
    out = Path(options.work).resolve() / f"store_{'known' if known else 'unknown'}"
    if (out / "manifest.json").exists():
        return out
    packed = opened(run, *inputs(options))[1].data.store
    table = metadata.typed_metadata(truth.truth_metadata(truth.read_truth(packed.index["path"])))
    lens = (
        packed.index.drop_duplicates("object")
        .set_index("object")["label"]
        .reindex(table["object"])
        .to_numpy()
        == 1
    )
    random = np.random.default_rng(seed_from(11, "line_snr"))
    lines = random.normal(LINES * lens, 1)
    table["line_snr"] = np.where(random.random(len(table)) < UNKNOWN, np.nan, lines)
    if not known:
        table[COLUMNS] = np.nan
    out.mkdir(parents=True, exist_ok=True)
    for name in ("pixels.npy", "index.parquet", "quarantine.csv"):
        (out / name).unlink(missing_ok=True)
        (out / name).symlink_to(packed.directory.resolve() / name)
    content = io.BytesIO()
    table.to_parquet(content, index=False, compression="zstd")
    (out / store.METADATA).write_bytes(content.getvalue())
    manifest = packed.manifest | dict(metadata=blake2b(content.getvalue(), digest_size=16).hexdigest())
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


def ratio_added(table: pd.DataFrame, image: Path, out: Path) -> Path:
    """Predictions of a network of images with the exact log likelihood ratio of line_snr,
    of a table of metadata, added to each logit.
    """
    out.mkdir(parents=True, exist_ok=True)
    for which in ("val", "test"):
        objects = by_object(image, which)
        ratio = (
            (LINES * table.set_index("object")["line_snr"].reindex(objects["object"]) - LINES**2 / 2)
            .fillna(0)
            .to_numpy()
        )
        predictions.write_predictions(
            objects.assign(prob=predictions.sigmoid(predictions.logit(objects["prob"]) + ratio)),
            out / f"pred_{which}.csv",
        )
    return out


def metadata_part(options: Config) -> list[tuple]:
    rows = [
        (
            f"film_conditioned; line_snr alone has AUC {0.5 + 0.5 * math.erf(LINES / 2):.3f} where known",
            "AUC",
            "accuracy",
        )
    ]
    images = runs(options, {"images": ("film_conditioned",)})
    if not images:
        return rows
    known, unknown = (
        ["--store", str(with_metadata(options, next(iter(images.values())), there))]
        for there in (True, False)
    )
    table = store.open_store(known[1]).metadata
    both = runs(
        options,
        {"both": ("film_conditioned-metadata", "--use_metadata", "--metadata_columns", *COLUMNS)},
        known,
    )
    found = {}
    for (_, seed), run in images.items():
        found[f"images, seed {seed}"] = plain = asked(options, run)
        if finished(plain):
            found[f"images, and the likelihood ratio of line_snr, seed {seed}"] = ratio_added(
                table, plain, run / "ratio"
            )
    for (_, seed), run in both.items():
        found[f"images and metadata, seed {seed}"] = asked(options, run, data=known)
        found[f"the same network, all metadata missing, seed {seed}"] = asked(
            options, run, "missing", data=unknown
        )
    for name, out in found.items():
        if finished(out):
            whole = judged([out], out / "judged")["global"]
            rows.append(
                (
                    name,
                    f"{whole['roc_auc']:.4f} [{whole['roc_auc_low']:.4f}, {whole['roc_auc_high']:.4f}]",
                    f"{whole['accuracy']:.4f}",
                )
            )
    return rows


# ---- attacks


def spoilt(network: nn.Module, batch: Batch, norm: str, radius: float) -> Batch:
    """The batch with its images changed by the attack, or by white "noise" of so many rms."""
    if norm != "noise":
        return attack(network, batch, label_alone, 0, norm, radius, STEPS)
    noise = (
        torch.randn_like(batch["image"]) * noise_rms(batch["image"], batch.get("present"))[:, :, None, None]
    )
    return batch | {"image": batch["image"] + radius * noise}


def survived(options: Config, run: Path) -> dict[str, float]:
    """Change of the images -> accuracy at t* of validation, of some test objects,
    kept in the run's directory; nothing if it may not be measured.
    """
    kept = run / "attacked.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    wanted = {"clean": ("noise", 0.0), "noise 1": ("noise", 1.0)}
    wanted |= {
        f"{norm} {radius:g}": (norm, radius) for norm in NORMS for radius in getattr(options, f"at_{norm}")
    }
    missing = {name: how for name, how in wanted.items() if f"{name}, {options.attacked}" not in results}
    if missing and options.table_only:
        return {}
    if missing:
        torch.set_num_threads(1)
        network, answer = opened(run, *inputs(options))
        objects = by_object(asked(options, run), "val")
        threshold, _ = figures_of_merit.youden(objects["label"], objects["prob"])
        count = min(options.attacked, len(answer.data))
        chosen = np.random.default_rng(0).permutation(len(answer.data))[:count]  # of both classes and domains
        for name, (norm, radius) in missing.items():
            right = 0
            for part in np.array_split(chosen, math.ceil(count / 128)):
                torch.manual_seed(0)
                batch = answer.data.__getitems__(part.tolist())
                changed = spoilt(network, batch, norm, radius)
                with torch.no_grad():
                    right += (
                        (
                            (network_outputs(network, changed)["logit"].sigmoid() >= threshold)
                            == (batch["label"] > 0.5)
                        )
                        .sum()
                        .item()
                    )
            results[f"{name}, {options.attacked}"] = right / count
            kept.write_text(json.dumps(results, indent=1))
    return {name: results[f"{name}, {options.attacked}"] for name in wanted}


def attacks_part(options: Config) -> list[tuple]:
    first, then = runs(options, {"as it is": ("robust_resnet",)}), replace(options, epochs=options.tuned)
    kinds = {"as it is": ("plain",)} | {
        f"--adversarial {norm}, radius {radius:g}": (
            f"{norm}{radius:g}",
            "--adversarial",
            norm,
            "--adversarial_radius",
            radius,
        )
        for norm in NORMS
        for radius in getattr(options, f"radii_{norm}")
    }
    jobs = {
        (f"and then {kind}", seed): lambda name=name, flags=flags, seed=seed, run=run: trained(
            then,
            f"robust_resnet-{name}_after_{options.epochs}",
            seed,
            *TUNING,
            "--initial_checkpoint",
            run / "best.pt",
            *flags,
        )
        for (_, seed), run in first.items()
        for kind, (name, *flags) in kinds.items()
    }
    tuned = {key: run for key, run in in_parallel(options, jobs).items() if (run / "results.json").exists()}
    rows = []
    for (kind, seed), run in (first | tuned).items():
        if accuracy := survived(options, run):
            rows = rows or [("accuracy of robust_resnet, trained", *accuracy)]
            rows.append((f"{kind}, seed {seed}", *(f"{value:.3f}" for value in accuracy.values())))
    return rows


# ---- domains


def domains_part(options: Config) -> list[tuple]:
    rows = [("trained with", "AUC slsim", "AUC hsc", "accuracy hsc at t* of slsim")]
    for name in options.domain_models.split(","):
        slsim = ["--label_domain", "slsim"]
        kinds = {
            "labels of both": (name,),
            "labels of slsim": (f"{name}-slsim", *slsim),
            "labels of slsim, --domain_adversarial": (
                f"{name}-slsim_adversarial",
                *slsim,
                "--domain_adversarial",
            ),
        }
        for (kind, seed), run in runs(options, kinds).items():
            if finished(out := asked(options, run)):
                rows.append((f"{name}, {kind}, seed {seed}", *(f"{value:.4f}" for value in transfer(out))))
    return rows


def transfer(folder: Path) -> tuple[float, float, float]:
    """(AUC in slsim, AUC in hsc, accuracy in hsc at the t* of slsim's validation) of the test objects."""
    tables = {which: by_object(folder, which).groupby("domain") for which in ("val", "test")}
    columns = {
        (which, name): part[["label", "prob"]].to_numpy().T
        for which, groups in tables.items()
        for name, part in groups
    }
    threshold, _ = figures_of_merit.youden(*columns["val", "slsim"])
    return (
        *(figures_of_merit.roc_auc(*columns["test", name]) for name in DOMAINS),
        figures_of_merit.all_figures(*columns["test", "hsc"], threshold)["accuracy"],
    )


def main(argv: list[str]) -> None:
    (options,) = config.read_options(argv, Config)
    for part, rows_of in dict(metadata=metadata_part, attacks=attacks_part, domains=domains_part).items():
        if part in options.parts.split(","):
            rows = rows_of(options)
            print(f"{aligned(rows) if len(rows) > 1 else f'{part}: no run has finished'}\n", flush=True)


if __name__ == "__main__":
    config.run_script(main)
