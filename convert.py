"""Pack a catalogue into a store to train on, and stores into shards and back.
docs/catalogues.md says what each takes.

    python convert.py galaxiesml --input 5x64x64_training_with_morphology.hdf5 --output stores/galaxiesml
    python convert.py hdf5       --input Galaxy10_DECals.h5 --output stores/galaxy10 --image_size 64
    python convert.py galaxy_zoo --input images --labels gz2_hart16.csv --output stores/zoo --image_size 64
    python convert.py castles    --input drizzled --output stores/castles --crop 99
    python convert.py bologna    --input Data.0 --labels classifications.csv --output stores/bologna
    python convert.py fits       --input cutouts --table survey.csv --output stores/survey
    python convert.py fits       --input cutouts --output stores/unlabelled
    python convert.py shards     --input stores/zoo --output shards/zoo
    python convert.py shards     --from shards/zoo --output stores/again
    python convert.py shards     --from webdataset --labels classes.csv --bands g r i --output stores/theirs
    python convert.py match      --input stores/zoo stores/castles --output matches.csv
    python convert.py galaxy_zoo --help

Pixels stay float32 in physical units; metadata.parquet has a row for each object (data/cutouts/metadata.py),
quality.parquet one for each image (data/cutouts/quality.py). Interrupted, the same command goes on;
`python train.py --store stores/zoo ...` trains on what it makes.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from data.cutouts import metadata, quality_table, store
from data.cutouts.blank import MAX_BLANK
from data.cutouts.source import Source, open_source
from data.tar_shards import writer
from utils import config, files, messages, plots
from utils.config import Options, option, several
from utils.mistake import Mistake


@dataclass(frozen=True)
class Packing(Options):
    """What every catalogue is told."""

    input: str = ""  # the catalogue's file or folder
    output: str = ""  # folder of the store
    workers: int = option(1, least=1)  # processes that read
    # share of the pixels of an image that may have one value; beyond, it shows no sky and is refused
    max_blank: float = option(MAX_BLANK, above=0, most=1)
    preview: int = option(0, least=0)  # draw the first so many objects into preview.png, asinh stretch


@dataclass(frozen=True)
class Catalogue(Packing):
    # resample to so many pixels on a side, flux conserved; 0: as they are
    image_size: int = option(0, least=0)
    crop: int = option(0, least=0)  # cut so many pixels on a side out of the middle first; 0: all


@dataclass(frozen=True)
class GalaxiesML(Catalogue):
    # of the catalogue's own, kept as galaxiesml_split; empty: by the file's name
    split: Literal["", "training", "validation", "testing"] = ""
    # where the bands of an image are; auto: by its shape
    channels: Literal["auto", "first", "last"] = "auto"


@dataclass(frozen=True)
class Hdf5(Catalogue):
    images: str = (
        ""  # path of the data set of images in the file; empty: by its name, or the only one of four axes
    )
    # where the bands of an image are; auto: by its shape, and says so
    channels: Literal["auto", "first", "last"] = "auto"
    bands: list[str] = several()  # their names
    id_column: str = ""  # column of ids; empty: by its name
    label_column: str = ""  # column of labels: 1 lens, 0 none, -1 unknown; empty: by its name
    catalog: str = ""  # its name; empty: by the layout


@dataclass(frozen=True)
class GalaxyZoo(Catalogue):
    labels: str = ""  # table of votes (CSV or FITS); empty: images alone
    id_column: str = ""  # its column of ids; empty: the one that most files are named by
    min_votes: int = 20  # lens rule: people who found the galaxy odd
    min_lens_votes: int = 5  # ... of them, who saw a lens or an arc
    gate: float = 0.5  # ... share of those asked who found it odd
    lens: float = 0.4  # ... share of these who saw a lens or an arc
    # which share of the table that is
    statistic: Literal["debiased", "fraction", "weighted_fraction"] = "debiased"


@dataclass(frozen=True)
class Hst(Catalogue):
    catalog: str = "castles"  # whose lenses they are
    label: Literal[1, 0, -1] = 1  # of all of them: lens, none, unknown
    label_source: str = ""  # who says so; empty: the catalogue
    good_bits: int = 0  # sum of the DQ bits that do not spoil a pixel
    # share of missing pixels of an image that is still filled
    max_masked: float = option(0.25, least=0, below=1)


@dataclass(frozen=True)
class Bologna(Catalogue):
    labels: str = ""  # the truth, CSV; empty: images alone
    masked_value: float = 100.0  # of missing pixels
    # share of missing pixels of an image that is still filled
    max_masked: float = option(0.25, least=0, below=1)


@dataclass(frozen=True)
class SurveyFits(Catalogue):
    # which files and objects there are, and what is known of them; empty: all files, by their names
    table: str = ""
    columns: list[str] = several()  # names of its columns: ours=theirs, such as redshift=z_spec
    catalog: str = "survey"  # its name
    planes: list[str] = several()  # the bands of cubes
    # bands as files and headers name them, and their names here: HSC-G=g VIS=i; the usual ones are known
    band_alias: list[str] = several()
    label_source: str = ""  # who says what is a lens; empty: the catalogue
    # share of pixels of an image that are not finite, masked or of a fill value, and still filled
    max_masked: float = option(0.0, least=0, below=1)
    # EXTNAME or number of the HDU that masks pixels; empty: MASK, DQ, INVVAR, WHT and the like; none: no mask
    mask_hdu: str = ""
    good_bits: int = option(0, least=0)  # sum of the bits of its flags that do not spoil a pixel


@dataclass(frozen=True)
class Shards(Packing):
    # --from: folder of shards, packed into the store --output; else --input is written as shards
    from_shards: str = ""
    per_shard: int = option(10_000, least=1)  # objects of a shard that is written
    # --from: table of labels and fields by object (CSV, FITS, Parquet), laid over what the shards say
    labels: str = ""
    # ... its column of ids; without --labels the field of the samples' JSON that names the object
    id_column: str = ""
    bands: list[str] = several()  # --from shards of others: bands of samples that do not name theirs
    # --from shards of others: where the bands of an array are; auto: by its shape, and says so
    channels: Literal["auto", "first", "last"] = "auto"
    # --from shards of others: whether their labels say lens (1) or none (0); --no_labelled keeps them as
    # classes
    labelled: bool = True
    domain: str = "tar_shards"  # --from shards of others: domain of samples that do not name theirs


@dataclass(frozen=True)
class Match(Options):
    input: list[str] = several()  # two stores of catalogues
    output: str = ""  # CSV: object_left, object_right, separation in arcsec, mutual
    radius: float = option(1.0, above=0)  # arcsec, inclusive


CATALOGUES = {
    "galaxiesml": ("galaxiesml", GalaxiesML, "path"),
    "hdf5": ("hdf5", Hdf5, "path"),
    "galaxy_zoo": ("galaxy_zoo", GalaxyZoo, "images"),
    "castles": ("hst", Hst, "input"),
    # kind of source, its options, its input's name
    "bologna": ("bologna", Bologna, "input"),
    "fits": ("survey_fits", SurveyFits, "input"),
}


# columns of proper motions, parallaxes and epochs that are no fields, behind the name of a catalogue or not
MOTION = re.compile(
    r"(^|_)(pm|pm_?(ra|de|dec|l|b)|mu_?(ra|de|dec|alpha|delta)|(ref_|ra_|dec_|obs_)?epoch|equinox|parallax|plx)"
    r"($|_)",
    re.IGNORECASE,
)
OF_FOREIGN = ("labels", "id_column", "bands", "channels", "labelled", "domain")
say = partial(messages.say, script="convert.py")


def pack(options: Packing, source: Source) -> None:
    """Pack a catalogue, measure the quality of its images, check its metadata."""
    for line in getattr(source, "report", ()):
        say(line)
    packed = store.pack_cutouts(
        source.index,
        options.output,
        source.shape,
        options.workers,
        store.source_digest(source, options.max_blank),
        say,
        source,
        options.max_blank,
    )
    quality = quality_table.quality_of(packed, say)
    print("\n".join(packed.summary()))
    if packed.metadata is not None:
        table = metadata.typed_metadata(packed.metadata)
        problems = metadata.validate_metadata(table)
        with files.whole(Path(options.output) / "problems.csv") as temporary:
            problems.to_csv(temporary, index=False)
        print("\n".join(metadata.metadata_summary(table, problems)))
    print(
        f"{(quality['outlier'] != '').sum():,} of {len(quality):,} images are outliers of their band "
        "(quality.parquet)"
    )
    if options.preview:
        first = packed.index[packed.good].drop_duplicates("object").head(options.preview)
        titles = [f"{name} {band}" for name, band in zip(first["object"], first["band"])]
        plots.save_figure(
            plots.mosaic(packed.read(first.index.to_numpy()), titles), Path(options.output), "preview"
        )


def convert(options: Any, kind: str, input_name: str) -> None:
    own = {field.name: getattr(options, field.name) for field in fields(options)}
    given = {name: value for name, value in own.items() if name not in Packing.__dataclass_fields__}
    pack(options, open_source(dict(kind=kind, **{input_name: options.input}, **given)))


def shards(options: Shards) -> None:
    ours = {name: getattr(options, name) for name in OF_FOREIGN}
    if options.from_shards:
        return pack(options, open_source(dict(kind="tar_shards", directory=options.from_shards, **ours)))
    if given := [name for name, value in ours.items() if value != getattr(Shards(), name)]:
        raise Mistake(f"--{given[0]}: expected --from FOLDER beside it; a store is written as it is")
    written = writer.write_shards(
        store.open_store(options.input), options.output, options.per_shard, options.workers, say
    )
    print(
        f"{options.output}: {written['samples']:,} objects, {written['images']:,} images in "
        f"{len(written['shards']):,} shards"
    )


def match(options: Match) -> None:
    """The objects of one store that another has too, by their places on the sky, at one epoch where it is
    known how they move (docs/match.md).
    """
    if len(options.input) != 2:
        raise Mistake(f"--input: got {len(options.input)} folders, expected two stores")
    tables = [store.open_store(folder).metadata for folder in options.input]
    for folder, table in zip(options.input, tables):
        if table is None:
            raise Mistake(
                f"--input {folder!r}: has no metadata.parquet, so no places on the sky; expected the store "
                "of a catalogue"
            )
    left, right = (metadata.typed_metadata(table) for table in tables)
    for folder, table in zip(options.input, (left, right)):
        _say_of_positions(folder, table)
    left, right, lines = metadata.at_one_epoch(left, right, (options.input[0], options.input[1]))
    for line in lines:
        say(line)
    found = metadata.match_positions(left, right, options.radius)
    back = metadata.match_positions(right, left, options.radius)
    both_ways = set(zip(back["object_right"], back["object_left"]))
    found["mutual"] = [pair in both_ways for pair in zip(found["object_left"], found["object_right"])]
    with files.whole(Path(options.output)) as temporary:
        found.to_csv(temporary, index=False)
    several_times = found["object_right"].duplicated(keep=False)
    print(
        f"{options.output}: {len(found):,} of {len(tables[0]):,} objects of {options.input[0]} are within "
        f"{options.radius:g} arcsec of one of {len(tables[1]):,} in {options.input[1]}; "
        f"{found['mutual'].sum():,} are the nearest of each other, {several_times.sum():,} share theirs"
    )


def _say_of_positions(folder: str, table: pd.DataFrame) -> None:
    """Which objects have no place, and what is known of their motion and not used. Raises: Mistake."""
    without = table["ra"].isna() | table["dec"].isna()
    if without.all():
        raise Mistake(
            f"--input {folder!r}: none of its {len(table):,} objects has ra and dec: expected places on "
            "the sky"
        )
    if without.any():
        names = messages.first_of(table["object"][without].tolist())
        say(f"{folder}: objects without ra and dec, not matched: {without.sum():,} ({names})")
    if motion := [name for name in table.columns if MOTION.search(name) and not metadata.field_of(name)]:
        say(
            f"{folder}: {messages.first_of(motion, 6)} not used: places are compared as they are, of "
            "whatever epoch"
        )


def command_of(name: str) -> tuple[type, Callable]:
    if name in (others := {"shards": (Shards, shards), "match": (Match, match)}):
        return others[name]
    config.pick("command", name, CATALOGUES | others)
    kind, options, input_name = CATALOGUES[name]
    return options, lambda read: convert(read, kind, input_name)


def main(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return
    options, command = command_of(argv[0])
    rest = [
        f"--from_shards{token[6:]}" if token == "--from" or token.startswith("--from=") else token
        for token in argv[1:]
    ]
    (read,) = config.read_options(rest, options, script=f"convert.py {argv[0]}")
    for name in ("input", "output"):
        if not getattr(read, name) and not (name == "input" and getattr(read, "from_shards", "")):
            raise Mistake(f"--{name}: expected a path")
    command(read)


def console() -> None:
    """The command starloop-convert of an installed Starloop (pyproject.toml)."""
    config.run_script(main)


if __name__ == "__main__":
    console()
