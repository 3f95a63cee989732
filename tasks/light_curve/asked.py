"""Embeddings of light curves: one row for each curve, the refused ones too."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from contract import Answer, Batch, Columns
from data.light_curves.packed import Packed
from data.parts import Parts
from evaluation.probe import probe, probe_table
from losses import vae
from physics import variability
from tasks.light_curve import scores
from tasks.light_curve.config import Config
from tasks.light_curve.inputs import (
    noise_to_judge,
    make_examples,
    read_curves,
    split_curves,
)
from tasks.light_curve.task import rebuild
from utils import files
from utils.checkpoint import weights_of
from utils.config import Options, several
from utils.files import write_json
from utils.mistake import Mistake

TEXTS = ("path", "source", "split", "reason")  # columns of the table that are text


@dataclass(frozen=True)
class Asked(Options):
    # CSV of labels (source or path, then label or a column named with a colon: L.csv:process)
    probe: str = ""
    h5: list[Literal["embedding", "weights"]] = several()  # write these as HDF5 too


def answer(options: Any, own: Asked, config: Config, saved: dict[str, Any]) -> Answer:
    packed = read_curves(config, options.num_workers)
    known = saved["record"]["data"]
    if list(packed.bands) != known["bands"]:
        raise Mistake(
            f"--data {config.data}: bands {' '.join(packed.bands)}, but the network was trained with "
            f"{' '.join(known['bands'])}"
        )
    splits = split_curves(packed, config)
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

    def write(parts: Parts, out: Path) -> str:
        rows, beyond = np.split(examples.rows, [len(parts)])
        refused = np.flatnonzero(~usable) if options.which in ("all", "blind") else np.zeros(0, int)
        refused = np.concatenate([beyond, refused])
        count = len(rows) + len(refused)
        path = out / f"embedding_{options.which}.parquet"
        h5_path = out / f"embedding_{options.which}.h5"
        lines = [f"{path}: {count} curves, {len(rows)} of them with an embedding"]

        labelled = []  # frames of the curves that have a label: a probe needs them at once
        with contextlib.ExitStack() as stack:
            sinks = [stack.enter_context(parquet_sink(path))]
            if "embedding" in own.h5:
                sinks.append(stack.enter_context(h5_sink(h5_path, count)))
            at = 0
            for columns in parts:
                some = rows[at : at + len(columns["mean"])]
                at += len(some)
                frame = embedding_table(packed, splits, some, columns)
                for add in sinks:
                    add(frame)
                if labels is not None:
                    labelled.append(frame[labels[some] != ""])
            if len(refused):
                frame = refused_table(packed, refused, config, like=frame)
                for add in sinks:
                    add(frame)

        for what in own.h5:
            lines.append(f"{h5_path}: {count} rows" if what == "embedding" else write_weights(out, saved))
        if labels is not None:
            of_labelled = labels[rows][labels[rows] != ""].astype(str)
            lines.append(probed(pd.concat(labelled), of_labelled, out / f"probe_{options.which}.json"))
        return "\n".join(lines)

    return Answer(
        rebuild(saved["record"]),
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
    reconstruction = scores.describe(network, batch, observed)
    cost = vae.sum_observed(
        scores.misfit(reconstruction, batch, likelihood) - scores.least(batch, likelihood), observed
    )
    steady = scores.constant(batch, observed, counted)
    values = observed.sum((1, 2)).clamp(min=1)
    mean_rate = torch.where(observed, batch["rate"], 0).sum(1) / observed.sum(1).clamp(min=1)
    return dict(
        mean=reconstruction.mean,
        std=(reconstruction.logvar / 2).exp(),
        points=batch["length"],
        rate=steady[:, 0] if counted else mean_rate,
        anomaly=(cost + vae.kl_gaussian(reconstruction.mean, reconstruction.logvar)) / values,
        deviance=vae.sum_observed(scores.deviance(reconstruction.rate, batch, counted), observed),
        constant_deviance=vae.sum_observed(scores.deviance(steady, batch, counted), observed),
        statistics=variability.statistics(batch["rate"], batch["error_low"], batch["error_up"], observed),
    )


def embedding_table(
    packed: Packed, splits: np.ndarray, rows: np.ndarray, columns: dict[str, np.ndarray]
) -> pd.DataFrame:
    """path, source, split, points, rate_<band>, z_00 ..., s_00 ... (mean and deviation of the posterior),
    scores, statistics, reason of the curves `rows` [n].
    """
    latent = columns["mean"].shape[1]
    curves = packed.curves.iloc[rows]
    values = dict(path=curves["path"].to_numpy(), source=curves["source"].to_numpy(), split=splits[rows])
    values |= dict(points=pd.array(columns["points"], dtype="Int64"))
    values |= {f"rate_{band}": columns["rate"][:, c] for c, band in enumerate(packed.bands)}
    values |= {f"z_{unit:02d}": columns["mean"][:, unit] for unit in range(latent)}
    values |= {f"s_{unit:02d}": columns["std"][:, unit] for unit in range(latent)}
    values |= {name: columns[name] for name in ("anomaly", "deviance", "constant_deviance")}
    values |= {f"stat_{name}": columns["statistics"][:, i] for i, name in enumerate(variability.STATISTICS)}
    return pd.DataFrame(values).assign(reason="").astype(dict.fromkeys(TEXTS, "str"))


def refused_table(packed: Packed, rows: np.ndarray, config: Config, like: pd.DataFrame) -> pd.DataFrame:
    """The same columns of curves that have no embedding, and why."""
    curves = packed.curves.iloc[rows]
    why = []
    for reason, points in zip(curves["reason"], curves["points"]):
        few = f"{points} points, fewer than {config.min_points}"
        why.append(reason or (few if points < config.min_points else "beyond --max_samples"))
    known = curves[["path", "source"]].assign(split="", reason=why).reset_index(drop=True)
    return known.reindex(columns=like.columns).astype(like.dtypes)


@contextlib.contextmanager
def parquet_sink(path: Path) -> Iterator[Callable[[pd.DataFrame], None]]:
    """What adds the rows of a frame to a Parquet file, there whole or not at all."""
    with files.whole(path) as temporary, contextlib.ExitStack() as stack:
        writers: list[pq.ParquetWriter] = []

        def add(frame: pd.DataFrame) -> None:
            if not writers:
                schema = pa.Schema.from_pandas(frame, preserve_index=False)
                writers.append(stack.enter_context(pq.ParquetWriter(temporary, schema)))
            writers[0].write_table(pa.Table.from_pandas(frame, writers[0].schema, preserve_index=False))

        yield add


@contextlib.contextmanager
def h5_sink(path: Path, count: int) -> Iterator[Callable[[pd.DataFrame], None]]:
    """The same for HDF5: z, s [N, L], and the other columns by name."""
    import h5py

    with files.whole(path) as temporary, h5py.File(temporary, "w") as file:
        at = 0

        def place(name: str, values: np.ndarray) -> None:
            if name not in file:
                kind = h5py.string_dtype() if values.dtype == object else values.dtype
                file.create_dataset(name, (count, *values.shape[1:]), kind)
            file[name][at : at + len(values)] = values

        def add(frame: pd.DataFrame) -> None:
            nonlocal at
            for letter in "zs":
                units = [name for name in frame if name.startswith(f"{letter}_")]
                place(letter, frame[units].to_numpy(np.float32))
            for name in frame:
                if name in TEXTS:
                    place(name, frame[name].to_numpy(dtype=object))
                elif not name.startswith(("z_", "s_")):
                    place(name, frame[name].to_numpy(np.float64, na_value=np.nan))
            at += len(frame)

        yield add


def read_labels(given: str, packed: Packed) -> np.ndarray:
    """[N] str: the label of each curve of the pack, "" where there is none."""
    path, _, column = given.partition(":")
    try:
        labelled = pd.read_csv(path, dtype=str)
    except (OSError, ValueError) as error:
        if files.is_trouble(error):
            raise
        raise Mistake(f"--probe {path!r} cannot be read as a CSV of labels: {error}") from error
    key = next((name for name in ("source", "path") if name in labelled), labelled.columns[0])
    column = column or next(
        (name for name in ("label", "process", "type", "class") if name in labelled),
        labelled.columns[-1],
    )
    if column not in labelled:
        raise Mistake(f"--probe {path!r} has no column {column!r}; it has {', '.join(labelled.columns)}")
    label_of = dict(zip(labelled[key], labelled[column].fillna("")))
    names = packed.curves["path" if key == "path" else "source"]
    labels = names.map(lambda name: label_of.get(name, "")).to_numpy(dtype=object)
    if not (labels != "").any():
        theirs = "".join(labelled[key].head(1).fillna(""))
        raise Mistake(
            f"--probe {path!r}: none of its {len(labelled)} values of {key!r} (such as {theirs!r}) is among "
            f"the curves (such as {names.iloc[0]!r})"
        )
    return labels


def probed(frame: pd.DataFrame, labels: np.ndarray, path: Path) -> str:
    """Probe the embedding of labelled curves [N], and nine statistics by hand beside it;
    write the figures and return a table of them.
    """
    sets = dict(
        embedding=[name for name in frame if name.startswith(("z_", "s_"))],
        latent_means=[name for name in frame if name.startswith("z_")],
        nine_statistics=[name for name in frame if name.startswith("stat_")],
    )
    spread = frame[[name for name in frame if name.startswith("s_")]]
    features = frame.assign(**np.log(spread))
    try:
        results = {
            name: probe(features[columns].to_numpy(np.float64), labels) for name, columns in sets.items()
        }
    except ValueError as error:
        raise Mistake(f"--probe: {error}") from error
    write_json(path, results)
    return f"{path}: {len(labels)} labelled curves, five-fold cross-validation\n{probe_table(results)}"


def write_weights(out: Path, saved: dict[str, Any]) -> str:
    """weights.h5: one dataset a tensor, the options and bands as attributes."""
    import h5py

    path = out / "weights.h5"
    weights = weights_of(saved)
    with files.whole(path) as temporary, h5py.File(temporary, "w") as file:
        for name, tensor in weights.items():
            file[name.replace(".", "/")] = tensor.cpu().numpy()
        file.attrs["options"] = json.dumps(saved["record"]["options"])
        file.attrs["bands"] = json.dumps(saved["record"]["data"]["bands"])
    return f"{path}: {len(weights)} tensors"
