"""The probability of a strong lens for each input file."""

import mmap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from contract import Answer, Batch, Columns
from data import split
from data.bands import read_aliases
from data.cutouts import buckets, examples as cutouts, file_rows, store, truth
from data.parts import Parts
from evaluation import calibration, predictions
from evaluation.uncertainty import predictive_parts
from models.layers.augment import dihedral
from physics.lens_parameters import GEOMETRY, columns_of, turn
from physics.plausibility import Plausibility, plausibility
from tasks.lens import explain as lens_explain, inputs, units
from tasks.lens.config import Config, inferred_quantities, learnt_quantities
from tasks.lens.losses import network_outputs
from tasks.lens.network import rebuild
from tasks.lens.tables import plausibility_table, quantity_table
from utils.checkpoint import bands_of
from utils.config import Options, option
from utils.mistake import Mistake
from utils.seeding import seed_from


UNCERTAINTY = ["total", "aleatoric", "epistemic"]  # entropies in nats (evaluation/uncertainty.py)


@dataclass(frozen=True)
class Asked(Options):
    images: str = ""  # folder or manifest of unlabelled cutouts, instead of buckets
    tta: bool = False  # mean over the eight symmetries of the square
    # of the probabilities, as validation of the training gave it
    calibration: Literal["none", "temperature", "vector", "isotonic"] = "none"
    threshold: float = 0.5  # pred = 1 where prob >= threshold
    # what a file that cannot be read gets: nothing, or prob 0
    quarantined: Literal["empty", "nonlens"] = "empty"
    # draws of the weights of a network that has a posterior (bayesian_ensemble): their mean, and
    # uncertainty_<which>.csv
    samples: int = option(0, least=0)
    # draw why the network says so, for this many examples of the highest probability, as many as one picture
    # can show (docs/explain.md)
    explain: int = option(0, least=0, most=lens_explain.MOST)


def answer(options: Any, own: Asked, task: Config, saved: dict[str, Any]) -> Answer:
    if own.explain:
        lens_explain.import_captum()  # now, not after a long prediction
    # what the training was told of bands holds, and what is said now goes before it
    trained = read_aliases(saved["record"]["options"].get("band_alias", []))
    aliases = trained | read_aliases(task.band_alias)
    task = replace(task, band_alias=[f"{theirs}={ours}" for theirs, ours in aliases.items()])
    bands = bands_of(saved["record"])
    selection = read_index(options, own, task, saved["record"]["data"], bands)
    packed, rows = selection.packed, selection.rows
    inputs.refuse_other_bands(packed.index.iloc[rows], bands, task.band_mode)
    known = saved["record"]["data"]
    task = replace(task, pixel_scale=units.trained_pixel_scale(task, known))
    told = compare_units(task, known, packed, rows)
    examples = cutouts.make_examples(packed, rows, bands, task.band_mode)
    examples = inputs.with_columns(examples, replace(task, quality_weight=False))
    if not len(examples):
        raise Mistake(
            f"none of the {len(rows)} files can be predicted: {packed.directory}/quarantine.csv names the "
            "reasons"
        )
    found = saved.get("calibration", {})
    if own.calibration != "none" and own.calibration not in found.get("probability", {}):
        raise Mistake(
            f"--calibration {own.calibration}: the checkpoint has none, as only a run that ended has; or its "
            "validation logits do not rise with the label. Use best.pt of a run that ended, or --calibration "
            "none"
        )
    names = inferred_quantities(task)
    learnt = learnt_quantities(task, saved["record"]["data"])
    model = rebuild(saved["record"])
    if own.samples and not hasattr(model.network, "posterior"):
        raise Mistake(
            f"--samples {own.samples}: the network {task.model} has no posterior to draw from; "
            "bayesian_ensemble has"
        )
    model.samples = own.samples

    def ask(network: nn.Module, batch: Batch) -> Columns:
        # what is read once need not stay in this process's memory
        packed.pixels.base.madvise(mmap.MADV_DONTNEED)
        if own.samples:  # what is drawn follows from the examples, not from what was predicted before
            torch.manual_seed(seed_from("posterior", int(batch["index"][0])))
        return answer_batch(network, batch, names, own.tta)

    def write(parts: Parts, out: Path) -> str:
        which = options.which
        count = len(parts)

        def prob_of(wanted: np.ndarray) -> np.ndarray:
            return calibrated(parts.take(wanted, "prob")["prob"])

        def calibrated(prob: np.ndarray) -> np.ndarray:
            if own.calibration == "none":
                return prob
            curve = found["probability"][own.calibration]
            return calibration.apply_calibration(curve, predictions.logit(prob)).astype(np.float32)

        def parameters_of(wanted: np.ndarray) -> pd.DataFrame:
            columns = parts.take(wanted)
            table = quantity_table(names, columns["mean"], columns["variance"], found.get("quantities", {}))
            table = table[columns_of(learnt)]
            if "plausibility" in columns and set(GEOMETRY) <= set(learnt):
                table = table.join(plausibility_table(columns["plausibility"], Plausibility._fields[1:]))
            return table

        def uncertainty_of(wanted: np.ndarray) -> pd.DataFrame:
            return pd.DataFrame(parts.take(wanted, "uncertainty")["uncertainty"], columns=UNCERTAINTY)

        refused_are_zero = own.quarantined == "nonlens"
        frames = file_rows.frames_of_files(rows, examples, prob_of, count, own.threshold, refused_are_zero)
        place, trouble = known_places(packed, rows)
        objects = file_rows.Objects(packed.index, rows, selection.split, place)
        without = file_rows.write_frames_of_files(frames, len(rows), out, which, objects)
        line = f"{out}/pred_{which}.csv: {len(rows)} files, {count} examples"
        line += f", {len(objects)} objects in objects_{which}.csv"
        parameters = out / f"parameters_{which}.csv"
        if learnt:
            file_rows.write_more_of_files(rows, examples, parameters_of, count, parameters)
            line += f", what they are like in {parameters.name}"
        else:
            parameters.unlink(missing_ok=True)  # of another network
        if own.samples:
            file_rows.write_more_of_files(
                rows, examples, uncertainty_of, count, out / f"uncertainty_{which}.csv"
            )
            line += f", what is not known in uncertainty_{which}.csv"
        if without:
            line += f", {without} without a probability (see quarantine_{which}.csv)"
        if len(learnt) < len(names):
            line += f"\n{unlearnt_line(names, learnt, parameters.name)}"
        line += "".join(f"\n{text}" for text in trouble)
        if own.explain:
            best = most_probable(parts, own.explain)
            drawn = lens_explain.explain(
                model,
                examples,
                best,
                prob_of(best),
                parameters_of(best) if learnt else None,
                task.pixel_scale,
                options.batch_size,
                out,
                which,
            )
            line += f"\n{drawn}"
        return line

    return Answer(
        model,
        examples,
        ask,
        write,
        key=[packed.manifest["index"], own.tta, own.samples],
        notes=[selection.line, *examples.report, *told],
    )


def compare_units(task: Config, trained: dict[str, Any], packed: store.Store, rows: np.ndarray) -> list[str]:
    """Lines for the log on units that are not those of the training; trained: what that knew of its data.

    Raises: Mistake where the network's answer would be of other pixels than those it knows.
    """
    what = f"the store {packed.directory}"
    scale = units.trained_pixel_scale(task, trained)
    lines = units.compare_pixel_scale(task, scale, packed.pixel_scales, what)
    if units.depends_on_unit(task) and trained.get("spread"):
        lines += units.compare_unit(task, trained["spread"], units.typical_spread(packed, rows), what)
    return lines


def most_probable(parts: Parts, count: int) -> np.ndarray:
    """[count] int64, the examples of the highest probability, the highest first."""
    best = np.zeros(0, np.int64)
    at = 0
    values = np.zeros(0, np.float32)
    for part in parts:
        best = np.concatenate([best, at + np.arange(len(part["prob"]))])
        values = np.concatenate([values, part["prob"]])
        kept = np.argsort(-values, kind="stable")[:count]
        best, values = best[kept], values[kept]
        at += len(part["prob"])
    return best


def unlearnt_line(names: tuple[str, ...], learnt: tuple[str, ...], file: str) -> str:
    """Why some of the quantities `names` that the network infers are not written to `file`."""
    without = [name for name in names if name not in learnt]
    return (
        f"{'not in ' if learnt else 'no '}{file}: {' '.join(without)}, which the network was to infer, but "
        f"no training lens told it ({truth.NAME} was not beside their files, or did not have them)"
    )


def known_places(packed: store.Store, rows: np.ndarray) -> tuple[pd.DataFrame | None, list[str]]:
    """(object, ra, dec of the objects that something is known of, None: of none; lines about what could not
    be read), from the metadata of the store or the challenge's tables beside the files.
    """
    about = packed.metadata
    if about is None:
        try:
            about = truth.truth_metadata(truth.read_truth(packed.index["path"].iloc[rows]))
        except Mistake as mistake:
            return None, [f"ra and dec are empty: {mistake}"]
    about = about.reindex(columns=["object", "ra", "dec"]).drop_duplicates("object")
    return about.astype(dict(ra=np.float64, dec=np.float64)), []


class Selection(NamedTuple):
    """The packed inputs, and which of them are to be predicted."""

    packed: store.Store
    rows: np.ndarray  # [R] int64 of the index
    split: np.ndarray  # [N] str, of each row of the index
    line: str  # how many that is, and of how many


def read_index(
    options: Any, own: Asked, task: Config, record: Mapping[str, Any], bands: list[str]
) -> Selection:
    """What is to be predicted, its bands as the network names them.

    record: what the checkpoint knows of the data it was trained on.
    """
    if task.stream:
        raise Mistake(
            "--stream: a prediction needs the files in their order; pack the shards into a store (convert.py "
            "shards --from), give --store"
        )
    if own.images and (task.sources() or task.store):
        raise Mistake(f"--images {own.images!r}: give it, or buckets or a store, not both")
    if own.images:
        table = buckets.inventory_of_images(own.images, read_aliases(task.band_alias))
        packed = inputs.pack_inputs(table, task, options.num_workers)
    else:
        packed = inputs.open_inputs(task, options.num_workers)
    packed = inputs.with_names_of(packed, bands)
    index = inputs.split_index(packed.index, task, packed.metadata, record)
    if options.which == "all":
        rows = np.arange(len(index))
    elif options.which == "blind":
        rows = np.flatnonzero(index["label"] < 0)
    else:
        taken = split.kept_share(
            index["object"], task.split_seed, getattr(task, f"take_{options.which}_frac")
        )
        rows = np.flatnonzero((index["split"] == options.which) & (taken | (index["label"] < 0)))
    there = counted_splits(index["split"])
    if not len(rows):
        raise Mistake(f"--which {options.which}: no such file among the {len(index)} inputs ({there})")
    line = f"--which {options.which}: {len(rows):,} of {len(index):,} files"
    if len(rows) < len(index):
        others = counted_splits(index["split"].drop(index.index[rows]))
        line += f"; left out: {others} (--which all predicts all of them)"
    return Selection(packed, rows, index["split"].to_numpy(dtype=object), line)


def counted_splits(splits: pd.Series) -> str:
    """How many files each split has: 168 train, 36 val."""
    return ", ".join(f"{count:,} {name or 'unused'}" for name, count in splits.value_counts().items())


def answer_batch(network: nn.Module, batch: Batch, names: tuple[str, ...], tta: bool) -> Columns:
    """prob [B] float32 of a lens, and mean and variance [B, P] of the quantities `names`;
    with `tta` over the eight symmetries of the square.

    Of a quantity the eight answers, turned back, are a mixture: its mean and variance. Where the network
    infers a lens, `plausibility` [B, 4] of the one that it infers for the image as it is: the score, then its
    parts (physics/plausibility.py). Where samples of its weights are drawn, prob is their mean,
    and `uncertainty` [B, 3] that of the image as it is.
    """
    B = len(batch["image"])
    device = batch["image"].device
    views = []
    as_it_is = {}
    for k in range(8 if tta else 1):
        outputs = network_outputs(network, batch | dict(image=dihedral(batch["image"], k)))
        view = dict(prob=outputs["logit"].sigmoid())
        if "posterior" in outputs:
            parts = predictive_parts(outputs["posterior"].T)
            view = dict(prob=parts["prob"].float())
            as_it_is |= (
                {} if k else dict(uncertainty=torch.stack([parts[name] for name in UNCERTAINTY], 1).float())
            )
        if names:
            turned = torch.full((B,), k, device=device)
            view |= {
                name: turn(names, outputs[name], turned, back=True, signed=name == "mean")
                for name in ("mean", "variance")
            }
            if k == 0 and "arcs" in outputs:
                as_it_is |= dict(plausibility=plausibility_columns(outputs))
        views.append(view)
    together = {name: torch.stack([view[name] for view in views]) for name in views[0]}
    columns = {name: values.mean(0) for name, values in together.items()}
    if names and tta:
        columns["variance"] = columns["variance"] + together["mean"].var(0, correction=0)
    return columns | as_it_is


def plausibility_columns(outputs: dict[str, Tensor]) -> Tensor:
    """[B, 4] plausibility of what a network says of a lens (models/layers/lens_fit.py)."""
    return torch.stack(
        plausibility(
            outputs["image"],
            outputs["light"] + outputs["arcs"],
            outputs["light"],
            outputs["pixel_error"],
            *outputs["angles"].unbind(1),
            *outputs["rays"].unbind(1),
            outputs["einstein_radius"],
            torch.zeros_like(outputs["angles"][:, :, 0, 0]),
        ),
        1,
    )
