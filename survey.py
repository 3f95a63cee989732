"""Predict a survey: 10^6 to 10^9 cutouts in shards, over any number of scheduler array tasks and ranks.
docs/survey.md plans one.

    python survey.py plan    --images MANIFEST_OR_FOLDER --out S --shard_size 1000000
    python survey.py pack    --out S --part 17 --parts 1000
    python survey.py predict --out S --part 17 --parts 1000 --model_path runs/nano_s42/best.pt \
        runs/nano_s101/best.pt
    python survey.py reduce  --out S --parts 1000 --model_path runs/nano_s42/best.pt runs/nano_s101/best.pt \
        --csv
    python survey.py predict --help

plan cuts the list of files into shards; part 17 of 1000 has shards 17, 1017, ... (--part follows from the
array index where a scheduler gives one); pack reads the files of a shard into a store, predict writes
S/predictions/<weights>/000017.parquet (and packs what is not packed); reduce proves that each file has
exactly one row, names the parts to run again, and writes summary.json. Each is safe to kill and to run twice,
also at the same time: the same command goes on, and what is done is not done again.
"""

import utils  # noqa: F401  first, before torch: it says how threads wait

import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from contract import Batch, Columns, InPrecision
from data.bands import band_called, read_aliases, said_of_counts, unused_aliases
from data.cutouts import examples as cutouts
from data.cutouts.blank import MAX_BLANK
from data.listing import check_images
from data.packing import locked
from data.parts import how_cut, predict_parts
from data.survey import plan as shards, predictions, proof
from tasks import lens
from tasks.lens import asked as question, inputs as lens_inputs
from trained import Compute, as_asked, check_weights, load_weights, read_checkpoint
from utils import checkpoint, config, distributed, messages
from utils.checkpoint import bands_of, weights_of
from utils.config import Options, option, several
from utils.mistake import Mistake


@dataclass(frozen=True)
class PlanConfig(Options):
    out: str = ""  # folder of the survey
    images: str = ""  # folder, or manifest (text or .gz, one path a line, the bands of an object adjacent)
    # files of a shard; a few more where an object would be cut apart
    shard_size: int = option(1_000_000, least=1)
    image_size: int = option(41, least=1)  # pixels on a side that every cutout must have
    # bands as the files name them, and their names here: HSC-G=g VIS=i; the usual names are known
    band_alias: list[str] = several()
    # networks that are to predict it: refused now if they take other images or bands
    model_path: list[str] = several()
    # share of the pixels of a file that may have one value; beyond, it shows no sky and is quarantined
    max_blank: float = option(MAX_BLANK, above=0, most=1)


@dataclass(frozen=True)
class PackConfig(Options):
    out: str = ""  # folder of the survey
    part: int = -1  # which part of the shards, counted from 0; -1: the scheduler's array index
    parts: int = option(1, least=1)  # how many parts there are
    num_workers: int = option(1, least=0)  # processes that read files
    band_alias: list[str] = several()  # further names of bands, over those that plan was told


@dataclass(frozen=True)
class PredictConfig(Compute):
    out: str = ""  # folder of the survey
    part: int = -1  # which part of the shards, counted from 0; -1: the scheduler's array index
    parts: int = option(1, least=1)  # how many parts there are
    model_path: list[str] = several()  # best.pt of a run, or of several: then the mean of their probabilities
    band_alias: list[str] = several()  # further names of bands, over those that plan was told
    tta: bool = False  # mean of the probability over the eight symmetries of the square
    threshold: float = 0.5  # pred = 1 where prob >= threshold
    discard_pixels: bool = False  # remove the store of each shard whose prediction is on disk


@dataclass(frozen=True)
class ReduceConfig(Options):
    out: str = ""  # folder of the survey
    model_path: list[str] = several()  # as given to predict; none: account for the stores that were packed
    parts: int = option(1, least=1)  # as given to predict, to name the parts to run again
    csv: bool = False  # write all rows to pred.csv.gz too, and one row an object to objects.csv.gz


say = partial(messages.say, script="survey.py")


def plan(options: PlanConfig) -> None:
    aliases = read_aliases(options.band_alias)
    if options.images:  # said before the networks are read
        check_images(options.images, "--images")
    wanted = read_networks(options.model_path)[1] if options.model_path else None
    survey = shards.plan_survey(
        options.images,
        options.out,
        options.shard_size,
        options.image_size,
        say,
        aliases,
        wanted,
        options.max_blank,
    )
    for left, right, count, name in survey.plan["apart"][:3]:
        say(
            f"warning: objects ({name!r}, {count:,} in all) have files in shards {left} and {right}; "
            "networks of stacked bands will refuse this plan"
        )
    print(f"{options.out}: {survey.plan['files']:,} files in {len(survey):,} shards")
    if written := survey.plan.get("bands"):
        counts = {(text, band_called(text, aliases)): count for text, count in written.items()}
        some = sum(written.values()) < survey.plan["files"]
        looked = f" of the first {shards.LOOK:,} files of each shard:" if some else ":"
        print(f"bands{looked} {said_of_counts(counts)}")
    if unused := unused_aliases(aliases, written or ()):
        say(f"--band_alias {' '.join(unused)}: no file name has such a band")


def pack(options: PackConfig) -> None:
    survey = shards.open_survey(options.out)
    mine = shards.share_of_shards(len(survey), options.part, options.parts)
    left = [shard for shard in mine if not survey.manifest(shard)]
    aliases = survey.aliases | read_aliases(options.band_alias)
    for shard in left:
        packed = survey.pack(shard, options.num_workers, say, aliases)
        print(
            f"{packed.directory}: {packed.manifest['files']:,} files, {packed.manifest['quarantined']:,} of "
            "them quarantined",
            flush=True,
        )
    print(f"{len(mine)} shards are packed, {len(mine) - len(left)} of them before")


def read_networks(paths: list[str]) -> tuple[list[dict[str, Any]], dict[str, Any], str]:
    """The checkpoints, what they take, and the name of the folder of their predictions.
    Raises Mistake where they differ in it.
    """
    if not paths:
        raise Mistake("--model_path: expected a checkpoint, or several, such as runs/nano_s42/best.pt")
    saved = [read_checkpoint(path) for path in paths]
    wanted, marks = [], []
    for path, each in zip(paths, saved):
        record = each["record"]
        if record["options"]["task"] != "lens":
            raise Mistake(
                f"--model_path {path}: is of the task {record['options']['task']}; a survey is of cutouts "
                "(task lens)"
            )
        check_weights(lens.rebuild, each, path)
        trained = config.flat_options(config.recorded(lens.Config, record["options"]))
        if trained["use_metadata"]:
            raise Mistake(
                f"--model_path {path}: takes metadata, which the files of a survey do not have; predict a "
                "store with predict.py --store"
            )
        wanted.append(
            dict(
                image_size=trained["image_size"],
                band_mode=trained["band_mode"],
                bands=bands_of(record),
            )
        )
        marks.append(
            [
                weights_of(each),
                {
                    name: trained[name]
                    for name, field in config.fields_of(lens.Config).items()
                    if not field.metadata.get("free")
                },
            ]
        )
        for name, value in wanted[-1].items():
            if value != wanted[0][name]:
                raise Mistake(
                    f"--model_path: {path} takes {name} {value!r}, but {paths[0]} {wanted[0][name]!r}; "
                    "predict them one by one"
                )
    return saved, wanted[0], checkpoint.digest(marks)[:12]


def predict_shards(options: PredictConfig) -> None:
    survey = shards.open_survey(options.out)
    mine = shards.share_of_shards(len(survey), options.part, options.parts)
    saved, wanted, name = read_networks(options.model_path)
    folder = survey.directory / "predictions" / name
    aliases = survey.aliases | read_aliases(options.band_alias)
    survey.refuse(wanted)
    survey.refuse_bands(wanted, aliases)
    precisions = [
        each["record"]["options"]["precision"] if options.precision == "auto" else options.precision
        for each in saved
    ]
    settings = dict(wanted, precision=precisions, tta=options.tta, threshold=options.threshold)
    if aliases:
        settings["band_alias"] = [f"{theirs}={ours}" for theirs, ours in aliases.items()]
    predictions.claim_predictions(folder, settings)
    left = {shard for shard in mine if not predictions.prediction_path(folder, shard).exists()}
    device, warning = distributed.device_for(options.device)
    if warning:
        say(warning)
    networks = []
    for each, precision in zip(saved, precisions if left else []):
        model = load_weights(lens.rebuild(each["record"]), each, device)
        networks.append(as_asked(model, precision, options))
    for shard in mine:
        target = predictions.prediction_path(folder, shard)
        try:
            if shard in left:
                predict_shard(
                    survey,
                    shard,
                    target,
                    partial(ask, networks, options.tta),
                    options,
                    device,
                    settings,
                    saved,
                )
        except (OSError, Mistake):  # without locks another task may have done this very shard under our hands
            if not target.exists():
                raise
        shutil.rmtree(target.with_suffix(".parts"), ignore_errors=True)
        if options.discard_pixels:
            shutil.rmtree(survey.store_path(shard), ignore_errors=True)
    print(f"{folder}: {len(mine)} shards are predicted, {len(mine) - len(left)} of them before")


def ask(networks: list[InPrecision], tta: bool, batch: Batch) -> Columns:
    """prob [B], the mean over the networks, and that of each where there are several."""
    each = [question.answer_batch(network, batch, (), tta)["prob"] for network in networks]
    return dict(prob=torch.stack(each).mean(0)) | (
        {f"prob_{number}": prob for number, prob in enumerate(each)} if len(each) > 1 else {}
    )


def predict_shard(
    survey: shards.Survey,
    shard: int,
    target: Path,
    asked,
    options: PredictConfig,
    device: torch.device,
    settings: dict,
    saved: list[dict[str, Any]],
) -> None:
    """Write the rows of a shard, unless another task did: the parts that are done stay done,
    whatever happens in between.
    """
    start = time.perf_counter()
    packed = survey.pack(shard, options.num_workers, say, read_aliases(settings.get("band_alias", [])))
    packed.verify()
    packed = lens_inputs.with_names_of(packed, settings["bands"])
    packing = time.perf_counter() - start
    for each in saved:
        trained = config.recorded(lens.Config, each["record"]["options"])
        for line in question.compare_units(
            trained, each["record"]["data"], packed, np.arange(len(packed.index))
        ):
            say(f"shard {shard}: {line}")
    examples = cutouts.make_examples(
        packed, np.arange(len(packed.index)), settings["bands"], settings["band_mode"]
    )
    parts = (
        target.with_suffix(".parts")
        / checkpoint.digest([packed.manifest["index"], packed.manifest["crc32"], how_cut()])[:16]
    )
    parts.mkdir(parents=True, exist_ok=True)
    with locked(parts.parent, say, "predicting"):
        if target.exists():
            return
        # mapped: a worker would only copy
        found = predict_parts(examples, asked, options.batch_size, 0, device, parts, len(examples))
        networks = len(settings["precision"])
        rows = predictions.prediction_table(examples, found.columns(), options.threshold, networks)
        seconds = time.perf_counter() - start
        record = dict(
            shard=shard,
            list=survey.plan["shards"][shard][1],
            settings=settings,
            files=len(rows),
            seconds=seconds,
            incomplete=int((examples.rows < 0).any(1).sum()),
        )
        predictions.write_predictions(target, rows, record)
    print(
        f"{target}: {len(rows):,} files, {len(examples):,} examples, {packing:.1f} s to pack and check, "
        f"{seconds - packing:.1f} s to predict",
        flush=True,
    )


def reduce(options: ReduceConfig) -> None:
    survey = shards.open_survey(options.out)
    if not options.model_path:
        totals = proof.account_for_stores(survey, options.parts)
        print(
            f"{options.out}/stores.json: {totals['files']:,} files in {len(survey):,} stores, "
            f"{totals['quarantined']:,} of them quarantined"
        )
        return
    saved, wanted, name = read_networks(options.model_path)
    survey.refuse(wanted)
    folder = survey.directory / "predictions" / name
    summary = proof.prove_survey(survey, folder, len(saved), options.parts, options.csv)
    if options.csv and (apart := sum(count for _, _, count, _ in survey.plan["apart"])):
        say(
            f"warning: {folder}/objects.csv.gz has two rows of {apart:,} objects, whose files are in two "
            "shards: to have one of each, sort the manifest by object and plan in another folder"
        )
    print(
        f"{folder}/summary.json: {summary['files']:,} files, each in one row, "
        f"{summary['with_probability']:,} with a probability, {summary['positive']:,} of them at or above "
        f"{summary['settings']['threshold']:g}"
    )


COMMANDS = {
    "plan": (PlanConfig, plan),
    "pack": (PackConfig, pack),
    "predict": (PredictConfig, predict_shards),
    "reduce": (ReduceConfig, reduce),
}


def main(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return
    options, command = config.pick("command", argv[0], COMMANDS)
    (read,) = config.read_options(argv[1:], options, script=f"survey.py {argv[0]}")
    if not read.out:
        raise Mistake("--out: expected the folder of the survey")
    command(read)


def console() -> None:
    """The command starloop-survey of an installed Starloop (pyproject.toml)."""
    config.run_script(main)


if __name__ == "__main__":
    console()
