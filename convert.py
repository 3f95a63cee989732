"""Pack a catalogue into a store to train on, and stores into shards and back. docs/catalogues.md says what each takes.

    python convert.py galaxiesml --input 5x64x64_training_with_morphology.hdf5 --output stores/galaxiesml
    python convert.py galaxy_zoo --input images --labels zoo2MainSpecz.csv --output stores/zoo --image_size 64
    python convert.py castles    --input drizzled --output stores/castles --crop 99
    python convert.py bologna    --input Data.0 --labels classifications.csv --output stores/bologna
    python convert.py fits       --input cutouts --table survey.csv --output stores/survey
    python convert.py shards     --input stores/zoo --output shards/zoo
    python convert.py shards     --from shards/zoo --output stores/again
    python convert.py galaxy_zoo --help

Pixels stay float32 in physical units; metadata.parquet has a row for each object (data/metadata.py), quality.parquet one for each
image (data/quality.py). Interrupted, the same command goes on; `python train.py --store stores/zoo ...` trains on what it makes.
"""
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


from data import galaxiesml, metadata, quality_table, store
from data.source import Source
from utils import config, files, plots
from utils.mistake import Mistake


@dataclass(frozen=True)
class Packing:
    """What every catalogue is told."""
    input: str = ""                  # the catalogue's file or folder
    output: str = ""                 # folder of the store
    image_size: int = 0              # resample to so many pixels on a side, flux conserved; 0: as they are
    crop: int = 0                    # cut so many pixels on a side out of the middle first; 0: all
    workers: int = 1                 # processes that read
    preview: int = 0                 # draw the first so many objects into preview.png, asinh stretch

    def __post_init__(self):
        for name, least in dict(image_size=0, crop=0, workers=1, preview=0).items():
            if getattr(self, name) < least:
                raise Mistake(f"--{name}: got {getattr(self, name)}, expected at least {least}")
        for name in ("input", "output"):
            if not getattr(self, name):
                raise Mistake(f"--{name}: expected a path")

    @property
    def geometry(self) -> dict[str, int]:
        return dict(image_size=self.image_size, crop=self.crop)


def say(line: str) -> None:
    print(f"convert.py: {line}", file=sys.stderr, flush=True)


def pack(options: Packing, source: Source) -> None:
    """Pack a catalogue, measure the quality of its images, check its metadata."""
    packed = store.pack(source.index, options.output, source.shape, options.workers, store.source_digest(source), say, source)
    quality = quality_table.of(packed, say)
    table = metadata.typed(source.metadata)
    problems = metadata.validate(table)
    with files.whole(Path(options.output) / "problems.csv") as temporary:
        problems.to_csv(temporary, index=False)
    print("\n".join(packed.summary() + metadata.summary(table, problems)))
    print(f"{(quality['outlier'] != '').sum():,} of {len(quality):,} images are outliers of their band (quality.parquet)")
    if options.preview:
        first = packed.index[packed.good].drop_duplicates("object").head(options.preview)
        titles = [f"{name} {band}" for name, band in zip(first["object"], first["band"])]
        plots.save(plots.mosaic(packed.read(first.index.to_numpy()), titles), Path(options.output), "preview")


def convert_galaxiesml(options: Packing) -> None:
    pack(options, galaxiesml.open_source(options.input, **options.geometry))


COMMANDS: dict[str, tuple[type, Callable]] = {"galaxiesml": (Packing, convert_galaxiesml)}


def main(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return
    options, command = config.pick("command", argv[0], COMMANDS)
    read, = config.read(argv[1:], options, script=f"convert.py {argv[0]}")
    command(read)


if __name__ == "__main__":
    config.run(main)
