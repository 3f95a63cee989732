"""Embeddings of light curves: one row for each curve, the refused ones too."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import nn

from contract import Answer, Batch, Columns
from data.light_curves.packed import Packed
from evaluation.probe import probe, table
from losses import vae
from physics import variability
from tasks.light_curve import scores
from tasks.light_curve.config import Config
from tasks.light_curve.inputs import counts_and_likelihood, examples as make_examples, read, split_of
from tasks.light_curve.task import build_network
from utils import files
from utils.config import Options, several
from utils.json_file import write_json
from utils.mistake import Mistake


@dataclass(frozen=True)
class Asked(Options):
    # CSV of labels (source or path, then label or a column named with a colon: L.csv:process)
    probe: str = ""
    h5: list[Literal["embedding", "weights"]] = several()  # write these as HDF5 too


def answer(options: Any, own: Asked, config: Config, saved: dict[str, Any]) -> Answer:
    packed = read(config, options.num_workers)
    known = saved["record"]["data"]
    if list(packed.bands) != known["bands"]:
        raise Mistake(
            f"--data {config.data}: bands {' '.join(packed.bands)}, but the network was trained with "
            f"{' '.join(known['bands'])}"
        )
    splits = split_of(packed, config)
    asked = packed.good if options.which in ("all", "blind") else splits == options.which
    usable = asked & packed.good & (packed.points >= config.min_points)
    if not usable.any():
        raise Mistake(
            f"--which {options.which}: none of the {len(packed.curves)} curves is in it and has "
            f"{config.min_points} points or more"
        )
    labels = read_labels(own.probe, packed) if own.probe else None
    counted, likelihood = counts_and_likelihood(config, packed)
    examples = make_examples(packed, usable, config)

    def predict(network: nn.Module, batch: Batch) -> Columns:
        return embed(network, batch, likelihood, counted)

    def write(columns: dict[str, np.ndarray], out: Path) -> str:
        rows, beyond = np.split(examples.rows, [len(columns["mean"])])
        refused = np.flatnonzero(~usable) if options.which in ("all", "blind") else np.zeros(0, int)
        refused = np.concatenate([beyond, refused])
        frame = embedding_table(packed, splits, rows, refused, columns, config)
        path = out / f"embedding_{options.which}.parquet"
        with files.whole(path) as temporary:
            frame.to_parquet(temporary, index=False)
        lines = [f"{path}: {len(frame)} curves, {len(rows)} of them with an embedding"]
        lines += [
            write_h5(
                out / f"{what}_{options.which}.h5" if what == "embedding" else out / "weights.h5",
                what,
                frame,
                saved,
            )
            for what in own.h5
        ]
        if labels is not None:
            lines.append(probed(frame.iloc[: len(rows)], labels[rows], out / f"probe_{options.which}.json"))
        return "\n".join(lines)

    return Answer(
        build_network(config, len(packed.bands)),
        examples,
        predict,
        write,
        key=[packed.manifest["inventory"], config.min_points],
    )


def embed(network: nn.Module, batch: Batch, likelihood: str, counted: bool) -> Columns:
    """What is known of each curve: the posterior, the scores of its description,
    its rates and its statistics by hand.
    """
    observed = batch["observed"]
    said = scores.described(network, batch, observed)
    cost = vae.sum_observed(
        scores.misfit(said, batch, likelihood) - scores.least(batch, likelihood), observed
    )
    steady = scores.constant(batch, observed, counted)
    values = observed.sum((1, 2)).clamp(min=1)
    mean_rate = torch.where(observed, batch["rate"], 0).sum(1) / observed.sum(1).clamp(min=1)
    return dict(
        mean=said.mean,
        std=(said.logvar / 2).exp(),
        points=batch["length"],
        rate=steady[:, 0] if counted else mean_rate,
        anomaly=(cost + vae.kl_gaussian(said.mean, said.logvar)) / values,
        deviance=vae.sum_observed(scores.deviance(said.rate, batch, counted), observed),
        constant_deviance=vae.sum_observed(scores.deviance(steady, batch, counted), observed),
        statistics=variability.statistics(batch["rate"], batch["error_low"], batch["error_up"], observed),
    )


def embedding_table(
    packed: Packed,
    splits: np.ndarray,
    rows: np.ndarray,
    refused: np.ndarray,
    columns: dict[str, np.ndarray],
    config: Config,
) -> pd.DataFrame:
    """path, source, split, points, rate_<band>, z_00 ..., s_00 ...
    (mean and deviation of the posterior), scores, statistics, reason.
    """
    latent = columns["mean"].shape[1]
    values = dict(points=columns["points"])
    values |= {f"rate_{band}": columns["rate"][:, c] for c, band in enumerate(packed.bands)}
    values |= {
        f"{letter}_{i:02d}": columns[name][:, i]
        for letter, name in (("z", "mean"), ("s", "std"))
        for i in range(latent)
    }
    values |= {name: columns[name] for name in ("anomaly", "deviance", "constant_deviance")}
    values |= {f"stat_{name}": columns["statistics"][:, i] for i, name in enumerate(variability.STATISTICS)}
    known = pd.concat(
        [
            packed.curves.iloc[rows][["path", "source"]].reset_index(drop=True),
            pd.Series(splits[rows], name="split"),
            pd.DataFrame(values),
        ],
        axis=1,
    )
    there = packed.curves.iloc[refused]
    why = [
        reason
        or (
            f"{points} points, fewer than {config.min_points}"
            if points < config.min_points
            else "beyond --max_samples"
        )
        for reason, points in zip(there["reason"], there["points"])
    ]
    frame = pd.concat(
        [known.assign(reason=""), there[["path", "source"]].assign(split="", reason=why)], ignore_index=True
    )
    return frame.astype({"points": "Int64"})


def read_labels(given: str, packed: Packed) -> np.ndarray:
    """[N] str: the label of each curve of the pack, "" where there is none."""
    path, _, column = given.partition(":")
    try:
        table = pd.read_csv(path, dtype=str)
    except (OSError, ValueError) as error:
        raise Mistake(f"--probe {path!r} cannot be read as a CSV of labels: {error}") from error
    key = next((name for name in ("source", "path") if name in table), table.columns[0])
    column = column or next(
        (name for name in ("label", "process", "type", "class") if name in table), table.columns[-1]
    )
    if column not in table:
        raise Mistake(f"--probe {path!r} has no column {column!r}; it has {', '.join(table.columns)}")
    said = dict(zip(table[key], table[column].fillna("")))
    labels = (
        packed.curves["path" if key == "path" else "source"]
        .map(lambda name: said.get(name, ""))
        .to_numpy(dtype=object)
    )
    if not (labels != "").any():
        raise Mistake(
            f"--probe {path!r}: none of its {len(table)} values of {key!r} (such as "
            f"{''.join(table[key].head(1).fillna(''))!r}) is among "
            f"the curves (such as {packed.curves['path' if key == 'path' else 'source'].iloc[0]!r})"
        )
    return labels


def probed(frame: pd.DataFrame, labels: np.ndarray, path: Path) -> str:
    """Probe the embedding, and nine statistics by hand beside it;
    write the figures and return a table of them.
    """
    labelled = labels != ""
    frame, labels = frame[labelled], labels[labelled].astype(str)
    sets = dict(
        embedding=[name for name in frame if name.startswith(("z_", "s_"))],
        latent_means=[name for name in frame if name.startswith("z_")],
        nine_statistics=[name for name in frame if name.startswith("stat_")],
    )
    spread = frame[[name for name in frame if name.startswith("s_")]]
    try:
        results = {
            name: probe(frame.assign(**np.log(spread))[columns].to_numpy(np.float64), labels)
            for name, columns in sets.items()
        }
    except ValueError as error:
        raise Mistake(f"--probe: {error}") from error
    write_json(path, results)
    return f"{path}: {len(labels)} labelled curves, five-fold cross-validation\n{table(results)}"


def write_h5(path: Path, what: str, frame: pd.DataFrame, saved: dict[str, Any]) -> str:
    """The embedding (z, s [N, L], and the other columns by name) or the weights (one dataset a tensor,
    the options as attributes).
    """
    import h5py

    with files.whole(path) as temporary, h5py.File(temporary, "w") as file:
        if what == "weights":
            for name, tensor in (saved["model"] if "model" in saved else saved["state"]["ema"]).items():
                file[name.replace(".", "/")] = tensor.cpu().numpy()
            file.attrs["options"] = json.dumps(saved["record"]["options"])
            file.attrs["bands"] = json.dumps(saved["record"]["data"]["bands"])
            return f"{path}: {len(saved.get('model', ())) or 'all'} tensors"
        for letter in "zs":
            file[letter] = frame[[name for name in frame if name.startswith(f"{letter}_")]].to_numpy(
                np.float32
            )
        for name in frame:
            if not name.startswith(("z_", "s_")):
                text = frame[name].dtype == object or pd.api.types.is_string_dtype(frame[name])
                file[name] = (
                    frame[name].astype(str).to_numpy(dtype=h5py.string_dtype())
                    if text
                    else frame[name].to_numpy(np.float64, na_value=np.nan)
                )
    return f"{path}: {len(frame)} rows"
