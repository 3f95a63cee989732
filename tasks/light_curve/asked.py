"""Embeddings of light curves: one row for each curve, the refused ones too; and what one asks of them: which
are alike, which are strange, what the embedding knows.
"""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import nn

from contract import Answer, Batch, Columns
from data.light_curves.packed import LightCurves, Packed
from data.parts import Parts
from evaluation.probe import classes_to_probe, probe, probe_table, varied
from physics import variability
from tasks.light_curve import alike, anomaly, plots as curve_plots, strangest as strange
from tasks.light_curve.anomaly import embed
from tasks.light_curve.config import Config
from tasks.light_curve.embedding_files import csv_sink, guarded, h5_sink, parquet_sink
from tasks.light_curve.inputs import (
    bands_in_turn,
    curves_for,
    line_of_another_unit,
    line_of_long_curves,
    make_examples,
    noise_to_judge,
    refuse_another_unit,
    split_curves,
)
from tasks.light_curve.labels import Labels, read_labels
from tasks.light_curve.scores import Noise
from tasks.light_curve.task import rebuild
from utils import files, plots
from utils.checkpoint import bands_of, weights_of
from utils.config import Options, option, several
from utils.files import write_json
from utils.mistake import Mistake

TEXTS = ("path", "source", "split", "label", "reason")  # columns of the table that are text
PAGE = 5  # strangest curves on one picture
NAMED = 10  # of the strangest, on a map


@dataclass(frozen=True)
class Asked(Options):
    # table of labels (source or path, then label or a column named with a colon: L.csv:process)
    probe: str = ""
    h5: list[Literal["embedding", "weights"]] = several()  # write these as HDF5 too
    csv: bool = True  # write the embedding as CSV, beside Parquet
    # an apostrophe before names in CSV files that a spreadsheet would run, which are refused otherwise
    escape: bool = False
    # pictures of all curves in two dimensions, coloured by label, rate and anomaly; umap needs umap-learn
    maps: list[alike.MapKind] = several()
    # sources whose names stand in the maps; strangest: those of the ten most anomalous
    named: list[str] = several()
    nearest: list[str] = several()  # sources of which the curves most like theirs are listed
    # so many of the most anomalous curves are listed and drawn, with the band and time that make them so
    strangest: int = option(0, least=0)


@dataclass(frozen=True)
class Embedded:
    """What is known before the first prediction: the curves, and how each is told of."""

    packed: Packed
    splits: np.ndarray  # [N] str
    examples: LightCurves
    config: Config
    noise: Noise
    by_band: bool  # bands are observed in turn: statistics are each band's own
    labels: Labels | None

    @property
    def bands(self) -> tuple[str, ...]:
        return self.packed.bands

    @property
    def statistics(self) -> list[str]:
        """The columns of the statistics by hand."""
        names = variability.names_by_band(self.bands) if self.by_band else variability.STATISTICS
        return [f"stat_{name}" for name in names]


def answer(options: Any, own: Asked, config: Config, saved: dict[str, Any]) -> Answer:
    if "umap" in own.maps:
        alike.refuse_without_umap()
    record = saved["record"]["data"]
    packed, of_data = curves_for(bands_of(saved["record"]), config, options.num_workers)
    splits = split_curves(packed, config)
    asked = packed.good if options.which in ("all", "blind") else splits == options.which
    usable = asked & packed.good & (packed.points >= config.min_points)
    if not usable.any():
        raise Mistake(
            f"--which {options.which}: none of the {len(packed.curves)} curves is in it and has "
            f"{config.min_points} points or more"
        )
    labels = read_labels(own.probe, packed) if own.probe else None
    guarded_notes: list[str] = []
    if own.csv or own.nearest or own.strangest or own.maps:
        names = packed.curves[["source", "path"]]
        names = names if labels is None else names.assign(label=labels.of_curve)
        guarded(names, own.escape, guarded_notes.append)  # before anything is predicted
    known, notes = known_of(packed, splits, usable, config, record, labels)
    noise = known.noise
    chosen = packed.curves.iloc[known.examples.rows]
    for flag, sources in (("nearest", own.nearest), ("named", own.named)):
        for source in sources:
            if (flag, source) != ("named", "strangest"):
                alike.row_of_source(chosen, source, flag)  # a name that is not there is refused at once
    notes = of_data + notes + notes_of(known, usable, saved)
    notes += labels.lines if labels else []
    notes += guarded_notes
    model = rebuild(saved["record"])

    def predict(network: nn.Module, batch: Batch) -> Columns:
        return embed(network, batch, noise) | dict(statistics=statistics_of(batch, known.by_band))

    def write(parts: Parts, out: Path) -> str:
        courses = saved.get("calibration") or anomaly.calibration(model, known.examples, noise)
        frame, lines = write_embedding(known, own, parts, courses, usable, options.which, out)
        for what in own.h5:
            if what == "weights":
                lines.append(write_weights(out, saved))
        which = options.which
        if labels is not None:
            there = frame["label"] != ""
            lines.append(
                probed(
                    frame[there], frame["label"][there].to_numpy(dtype=object), out / f"probe_{which}.json"
                )
            )
        if own.nearest:
            lines.append(write_nearest(known, own, frame, out / f"nearest_{which}.csv"))
        if own.strangest:
            lines.append(write_strangest(known, own, frame, model, out, which))
        if own.maps:
            lines.append(write_maps(known, own, frame, out, which))
        return "\n".join(lines)

    if "calibration" not in saved:
        notes.append(
            "the checkpoint has no calibration (an older one, or last.pt): anomaly is counted from the "
            "curves predicted here"
        )
    elif len(saved["calibration"]["training"]["signal"]) == 1:
        notes.append(
            f"anomaly is counted from fewer than {2 * anomaly.OF_A_NODE} training curves, too few to tell "
            "how it goes with brightness, which it may follow"
        )
    return Answer(
        model,
        known.examples,
        predict,
        write,
        key=[packed.manifest["inventory"], config.min_points, config.max_points, noise, known.by_band],
        notes=notes,
    )


def known_of(
    packed: Packed,
    splits: np.ndarray,
    usable: np.ndarray,
    config: Config,
    record: Mapping[str, Any],
    labels: Labels | None = None,
) -> tuple[Embedded, list[str]]:
    """(what is known of the curves, of which those `usable` [N] bool are embedded; lines for the log).

    record: what the checkpoint knows of the data of its training.
    Raises: Mistake where none is usable, or their rates are in another unit.
    """
    refuse_another_unit(packed, record.get("rate_units", []))
    if not usable.any():
        raise Mistake(f"none of the {len(usable)} curves has {config.min_points} points or more")
    noise, notes = noise_to_judge(record, config, packed)
    in_turn = bool(bands_in_turn(packed, usable, config))
    examples = make_examples(packed, usable, config)
    return Embedded(packed, splits, examples, config, noise, in_turn, labels), notes


def notes_of(known: Embedded, usable: np.ndarray, saved: Mapping[str, Any]) -> list[str]:
    """Lines for the log on what is unlike the training, joined or observed in turn."""
    typical = weights_of(saved)["typical_rate"].tolist()
    lines = [
        line_of_another_unit(known.packed, typical),
        line_of_long_curves(known.packed, usable, known.config),
        bands_in_turn(known.packed, usable, known.config),
    ]
    return [line for line in lines if line]


def statistics_of(batch: Batch, by_band: bool) -> torch.Tensor:
    fields = (batch["rate"], batch["error_low"], batch["error_up"], batch["observed"])
    return (
        variability.statistics_by_band(*fields, batch["time"]) if by_band else variability.statistics(*fields)
    )


def write_embedding(
    known: Embedded,
    own: Asked,
    parts: Parts,
    courses: dict[str, Any],
    usable: np.ndarray,
    which: str,
    out: Path,
) -> tuple[pd.DataFrame, list[str]]:
    """Write the table of all curves; the rows that have an embedding, if anything more is asked of them,
    and lines for the terminal.
    """
    rows, beyond = np.split(known.examples.rows, [len(parts)])
    refused = np.flatnonzero(~usable) if which in ("all", "blind") else np.zeros(0, int)
    refused = np.concatenate([beyond, refused])
    count = len(rows) + len(refused)
    path = out / f"embedding_{which}.parquet"
    lines = [f"{path}: {count} curves, {len(rows)} of them with an embedding"]
    wanted = bool(own.probe or own.nearest or own.strangest or own.maps)
    frames = []
    with contextlib.ExitStack() as stack:
        sinks = [stack.enter_context(parquet_sink(path))]
        if own.csv:
            sinks.append(stack.enter_context(csv_sink(path.with_suffix(".csv"), own.escape)))
            lines.append(f"{path.with_suffix('.csv')}: the same as text")
        if "embedding" in own.h5:
            sinks.append(stack.enter_context(h5_sink(path.with_suffix(".h5"), count, TEXTS)))
            lines.append(f"{path.with_suffix('.h5')}: {count} rows")
        at = 0
        for columns in parts:
            some = rows[at : at + len(columns["mean"])]
            at += len(some)
            frame = embedding_table(known, some, columns, courses)
            for add in sinks:
                add(frame)
            if wanted:
                frames.append(frame)
        if len(refused):
            frame = refused_table(known, refused, like=frame)
            for add in sinks:
                add(frame)
    return pd.concat(frames, ignore_index=True).copy() if wanted else frame, lines


def embedding_table(
    known: Embedded, rows: np.ndarray, columns: dict[str, np.ndarray], courses: dict[str, Any]
) -> pd.DataFrame:
    """path, source, split, points, signal, rate_<band>, z_00 ..., s_00 ... (mean and deviation of the
    posterior), scores, statistics, label if asked for, reason of the curves `rows` [n].
    """
    latent = columns["mean"].shape[1]
    curves = known.packed.curves.iloc[rows]
    values = dict(
        path=curves["path"].to_numpy(), source=curves["source"].to_numpy(), split=known.splits[rows]
    )
    values |= dict(points=pd.array(columns["points"], dtype="Int64"), signal=columns["signal"])
    values |= {f"rate_{band}": columns["rate"][:, c] for c, band in enumerate(known.bands)}
    values |= {f"z_{unit:02d}": columns["mean"][:, unit] for unit in range(latent)}
    values |= {f"s_{unit:02d}": columns["std"][:, unit] for unit in range(latent)}
    values |= {
        name: anomaly.counted_from(courses[course], columns["signal"], columns["unexplained"])
        for name, course in (("anomaly", "training"), ("anomaly_steady", "steady"))
    }
    values |= {name: columns[name] for name in anomaly.SCORES}
    values |= {name: columns["statistics"][:, i] for i, name in enumerate(known.statistics)}
    if known.labels is not None:
        values |= dict(label=known.labels.of_curve[rows])
    frame = pd.DataFrame(values).assign(reason="")
    return frame.astype({name: "str" for name in TEXTS if name in frame})


def refused_table(known: Embedded, rows: np.ndarray, like: pd.DataFrame) -> pd.DataFrame:
    """The same columns of curves that have no embedding, and why."""
    curves = known.packed.curves.iloc[rows]
    least = known.config.min_points
    why = []
    for reason, points in zip(curves["reason"], curves["points"]):
        few = f"{points} points, fewer than {least}"
        why.append(reason or (few if points < least else "beyond --max_samples"))
    table = curves[["path", "source"]].assign(split="", reason=why).reset_index(drop=True)
    if known.labels is not None:
        table["label"] = known.labels.of_curve[rows]
    return table.reindex(columns=like.columns).astype(like.dtypes)


def probed(frame: pd.DataFrame, labels: np.ndarray, path: Path) -> str:
    """Probe the embedding of labelled curves [N], and statistics by hand beside it;
    write the figures and return a table of them.
    """
    try:
        large, lines = classes_to_probe(labels)
    except ValueError as error:
        raise Mistake(f"--probe: {error}") from error
    frame, labels = frame[large], labels[large]
    by_hand = [name for name in frame if name.startswith("stat_")]
    sets = dict(
        embedding=[name for name in frame if name.startswith(("z_", "s_"))],
        latent_means=[name for name in frame if name.startswith("z_")],
    )
    sets["nine_statistics" if len(by_hand) == 9 else "statistics_by_band"] = by_hand
    spread = frame[[name for name in frame if name.startswith("s_")]]
    features = frame.assign(**np.log(spread))
    lines.insert(0, f"{path}: {len(labels)} labelled curves, five-fold cross-validation")
    results = {}
    for name, columns in sets.items():
        values, kept, said = varied(features[columns])
        lines += [f"{name}: {line}" for line in said]
        if kept:
            results[name] = probe(values, labels)
    write_json(path, results)
    return "\n".join([*lines, probe_table(results)])


def columns_to_list(known: Embedded, frame: pd.DataFrame) -> list[str]:
    """What a list of single curves says of each, beside its name."""
    labels = ["label"] if known.labels is not None else []
    return [*labels, "split", "points", "signal", *(f"rate_{band}" for band in known.bands), "anomaly"]


def write_nearest(known: Embedded, own: Asked, frame: pd.DataFrame, path: Path) -> str:
    columns = columns_to_list(known, frame)
    table = pd.concat([alike.nearest_curves(frame, source, columns) for source in own.nearest])
    write_table(path, table, own.escape)
    shown = table.drop(columns="path").to_string(index=False, float_format="{:.4g}".format)
    return f"{path}: the curves nearest in the latent space\n{shown}"


def write_strangest(
    known: Embedded, own: Asked, frame: pd.DataFrame, model: nn.Module, out: Path, which: str
) -> str:
    """The list of the most anomalous curves, their pictures, and the scores beside each other."""
    by_hand, kept, said = varied(frame[known.statistics])
    if kept:
        frame = frame.assign(anomaly_by_hand=strange.anomaly_by_hand(by_hand))
    labels = frame["label"].to_numpy(dtype=object) if known.labels is not None else None
    order = np.argsort(-frame["anomaly"].to_numpy(np.float64), kind="stable")[: own.strangest]
    failure = strange.failure_of(model, known.examples, order, known.noise)
    rows = known.examples.rows[order]
    first_times = np.asarray(known.packed.fields["time"])[known.packed.first[rows]]
    why = strange.why_strange(failure, known.bands, first_times)

    listed = frame.iloc[order].reset_index(drop=True)
    columns = ["source", "path", *columns_to_list(known, frame), "anomaly_steady", "shortfall", "excess"]
    by_hand_columns = ["anomaly_by_hand"] if kept else []
    table = pd.concat([listed[[*columns, *by_hand_columns]], why, listed[known.statistics]], axis=1)
    if kept:
        ranks = frame["anomaly_by_hand"].rank(ascending=False, method="min").astype(int)
        table.insert(2, "rank_by_hand", ranks.to_numpy()[order])
    table.insert(0, "rank", np.arange(1, len(table) + 1))
    path = out / f"strangest_{which}.csv"
    write_table(path, table, own.escape)
    for page, start in enumerate(range(0, len(table), PAGE), start=1):
        unit = f" ({known.packed.unit})" if known.packed.unit else ""
        figure = curve_plots.strangest(failure, table, known.bands, slice(start, start + PAGE), unit)
        plots.save_figure(figure, out, f"strangest_{which}_{page}")

    compared = strange.compared_scores(frame, labels)
    write_json(out / f"scores_{which}.json", {row.pop("score"): row for row in compared.to_dict("records")})
    short = table[["rank", "source", "anomaly", "signal", "worst_band", "worst_since_first"]]
    lines = [
        f"{path}: the {len(table)} strangest of {len(frame)} curves, drawn in strangest_{which}_*.png",
        short.to_string(index=False, float_format="{:.4g}".format),
        f"{out / f'scores_{which}.json'}: scores of {len(frame)} curves, the statistics' own beside them "
        "(rho: Spearman's with signal and points)",
        *(f"by hand: {line}" for line in said),
        compared.to_string(index=False, float_format="{:.2f}".format),
    ]
    return "\n".join(lines)


def write_maps(known: Embedded, own: Asked, frame: pd.DataFrame, out: Path, which: str) -> str:
    """A picture of each kind, and a table of the places."""
    named = [source for source in own.named if source != "strangest"]
    marked = [alike.row_of_source(frame, source, "named") for source in named]
    if "strangest" in own.named:
        marked += np.argsort(-frame["anomaly"].to_numpy(np.float64), kind="stable")[:NAMED].tolist()
    vectors = alike.latent_of(frame)
    rates = frame[[f"rate_{band}" for band in known.bands]].to_numpy(np.float64).sum(1)
    table = frame[["source", "path"]].assign(rate=rates, anomaly=frame["anomaly"])
    labels = frame["label"].to_numpy(dtype=object) if known.labels is not None else None
    if labels is not None:
        table = table.assign(label=labels)
    lines = []
    for kind in dict.fromkeys(own.maps):
        if kind == "pca":
            place, share = alike.principal_plane(vectors)
            axes = tuple(f"principal axis {i + 1} ({100 * share[i]:.0f} %)" for i in range(2))
        else:
            place = alike.umap_plane(vectors)
            axes = ("UMAP 1", "UMAP 2")
        laid = int(np.isfinite(place[:, 0]).sum())
        title = f"{kind.upper()} of the latent vectors of {laid:,} light curves"
        figure = curve_plots.latent_map(
            place,
            axes,
            title,
            labels,
            rates,
            f"rate, all bands ({known.packed.unit or 'unit not written'})",
            frame["anomaly"].to_numpy(np.float64),
            {row: str(frame["source"].iloc[row]) for row in marked},
        )
        plots.save_figure(figure, out, f"map_{kind}_{which}")
        table = table.assign(**{f"{kind}_1": place[:, 0], f"{kind}_2": place[:, 1]})
        left = f", {len(frame) - laid:,} left out" if laid < len(frame) else ""
        lines.append(f"{out / f'map_{kind}_{which}.png'}: {title}{left}")
    path = out / f"maps_{which}.csv"
    write_table(path, table, own.escape)
    return "\n".join([*lines, f"{path}: the places"])


def write_table(path: Path, table: pd.DataFrame, escape: bool) -> None:
    with csv_sink(path, escape) as add:
        add(table)


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
