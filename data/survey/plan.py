"""A survey is a folder of shards, and a shard is an ordinary store.

    plan.json                       what was cut, how, and the count and digest of each list; written last
    shards/000017.txt.gz            the files of a shard, one absolute path a line, in the order of the input
    stores/000017                   its store (data/cutouts/store.py), once it is packed
    predictions/<weights>/          data/survey/predictions.py

The input is a folder, walked, or a manifest (text or .gz, one path a line). It is read once and never held:
memory is that of one shard. A cut never parts the bands of an object that are adjacent in the input.
"""

import gzip
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np
import pandas as pd

from data.bands import band_called, check_apart, read_aliases, refuse_absent, renamed_as
from data.catalogues.hdu_bands import said_of_unread_bands
from data.cutouts import store
from data.cutouts.blank import MAX_BLANK, reason_without_sky
from data.cutouts.buckets import NO_ALIASES, UNKNOWN
from data.cutouts.fits import BadFile, read_cutout
from data.listing import cut_between_objects, list_images, state_of_images
from data.names import named_files, parse_name
from data.packing import content_digest, locked_for_writing, publish_file, remove_partials, sync_folder
from utils import distributed
from utils.files import is_trouble, write_durably
from utils.mistake import Mistake

VERSION = 1
ARRAY_INDEX = ("SLURM_ARRAY_TASK_ID", "PBS_ARRAY_INDEX", "PBS_ARRAYID")
NOTHING = "nothing_good.json"  # stands for the manifest of a store without one good file, with the reasons
# files on each side of a cut among which an object that lies on both is noticed, and whose bands are counted
LOOK = 8_192


@dataclass(frozen=True)
class Survey:
    """A planned survey, open for packing and predicting."""

    directory: Path
    plan: dict  # plan.json

    def __len__(self) -> int:
        return len(self.plan["shards"])

    @property
    def shape(self) -> tuple[int, int]:
        return (self.plan["image_size"],) * 2

    @property
    def aliases(self) -> dict[str, str]:
        """Names of bands that plan was told."""
        return read_aliases(self.plan.get("band_alias", []))

    @property
    def max_blank(self) -> float:
        """Of plans that were made before there was the option, its default."""
        return self.plan.get("max_blank", MAX_BLANK)

    def paths(self, shard: int) -> list[str]:
        """The files of a shard. Raises: Mistake if its list is gone or not what was planned."""
        path = list_path(self.directory, shard)
        try:
            text = gzip.decompress(path.read_bytes())
        except (OSError, EOFError, ValueError) as error:
            if is_trouble(error):
                raise
            raise Mistake(
                f"{path} cannot be read ({error}): remove {self.directory}/plan.json and plan again"
            ) from error
        if content_digest(text) != self.plan["shards"][shard][1]:
            raise Mistake(f"{path} is not what was planned: remove {self.directory}/plan.json and plan again")
        return text.decode().split("\n")[:-1]

    def store_path(self, shard: int) -> Path:
        return self.directory / "stores" / f"{shard:06d}"

    def store_digest(self, shard: int) -> str:
        """A shard's store follows from its list and geometry alone:
        no file is asked again whether it has changed.
        """
        of_list = self.plan["shards"][shard][1]
        return content_digest(repr((store.VERSION, of_list, self.shape, self.max_blank)).encode())

    def manifest(self, shard: int) -> dict | None:
        """What a shard's store holds, None where it is not packed, or not from this list."""
        for name in ("manifest.json", NOTHING):
            try:
                manifest = json.loads((self.store_path(shard) / name).read_bytes())
            except (FileNotFoundError, ValueError):
                # a damaged one is named by data/cutouts/store.py when it packs
                continue
            if manifest.get("inventory") == self.store_digest(shard):
                return manifest
        return None

    def refuse(self, wanted: dict) -> None:
        """Raises Mistake where this plan is not for networks that take `wanted`:
        image_size, band_mode, bands.
        """
        if wanted["image_size"] != self.plan["image_size"]:
            raise Mistake(
                f"--model_path: the network takes image_size {wanted['image_size']}, but {self.directory} "
                f"was planned with {self.plan['image_size']}"
            )
        if wanted["band_mode"] == "stack" and self.plan["apart"]:
            left, right, count, name = self.plan["apart"][0]
            raise Mistake(
                f"--model_path: the network takes all bands of an object at once, but objects ({name!r}, "
                f"{count:,} in all) have files in shards {left} and {right}: sort the manifest by object, "
                "and plan in another folder"
            )

    def refuse_bands(self, wanted: dict, aliases: Mapping[str, str]) -> None:
        """Raises Mistake where the files that plan looked at have none of the bands of networks that take
        `wanted`: bands, band_mode.
        """
        written = self.plan.get("bands")
        if written is None:  # planned before they were counted
            written = written_counts(self.paths(0)[:LOOK], aliases)
        counts: Counter = Counter()
        for text, count in written.items():
            counts[band_called(text, aliases)] += count
        for band, name in renamed_as(wanted["bands"], counts).items():
            counts[name] = counts.pop(band)
        # a file that names no band is what a network of single bands takes
        if not (wanted["band_mode"] == "single" and "" in counts):
            refuse_absent(wanted["bands"], counts, "--model_path: the network", str(self.directory))

    def pack(
        self,
        shard: int,
        workers: int,
        say: Callable[[str], None],
        aliases: Mapping[str, str] = NO_ALIASES,
    ) -> store.Store:
        """The store of a shard, packed now or earlier; one without pixels where none of its files can be
        read.

        aliases: names of bands (data/bands.read_aliases): of its index, for pixels are the same by any name.
        """
        there = self.manifest(shard)
        path = self.store_path(shard)
        if there and "reasons" not in there:
            packed = store.open_store(path)
            if aliases:
                index = inventory_of_shard(self.paths(shard), aliases)
                packed = store.Store(path, packed.manifest, index.assign(reason=packed.index["reason"]))
            return packed
        index = inventory_of_shard(self.paths(shard), aliases)
        if not there:
            if not index["band"][0] and (line := said_of_unread_bands(index["path"][0], aliases)):
                say(line)
            try:
                return store.pack_cutouts(
                    index,
                    path,
                    self.shape,
                    max(1, workers),
                    self.store_digest(shard),
                    say,
                    max_blank=self.max_blank,
                )
            except Mistake:  # of a whole survey one shard may hold nothing that is good
                each = (reason_against(name, self.shape, self.max_blank) for name in index["path"])
                reasons = list(takewhile(bool, each))
                if len(reasons) < len(index):
                    raise
            say(
                f"shard {shard}: none of its {len(index):,} files can be used: {index['path'][0]}: "
                f"{reasons[0]}"
            )
            digest = self.store_digest(shard)
            there = dict(
                inventory=digest,
                index=digest,
                files=len(index),
                good=0,
                quarantined=len(index),
                block=1,
                crc32=[],
                reasons=reasons,
            )
            write_durably(path / NOTHING, json.dumps(there).encode())
            remove_partials(path)  # its pixels are zeros
        return store.Store(path, there, index.assign(reason=pd.array(there["reasons"], dtype="str")))


def open_survey(directory: str | os.PathLike) -> Survey:
    path = Path(directory) / "plan.json"
    try:
        plan = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise Mistake(
            f"--out: {str(directory)!r} holds no plan: run `survey.py plan` first, or again if it was "
            "interrupted"
        ) from None
    if plan["version"] != VERSION:
        raise Mistake(
            f"{path} is of version {plan['version']}, this code reads {VERSION}: plan in another folder"
        )
    return Survey(Path(directory), plan)


def plan_survey(
    images: str,
    directory: str | os.PathLike,
    shard_size: int,
    image_size: int,
    say: Callable[[str], None],
    aliases: Mapping[str, str] = NO_ALIASES,
    wanted: dict | None = None,
    max_blank: float = MAX_BLANK,
) -> Survey:
    """Cut the input into shards, or find that done.

    aliases: names of bands that files end in, besides the usual ones. wanted: what networks take that are to
        predict it (`Survey.refuse`).
    Raises: Mistake for an input that cannot be read, or another one than before, or one that is not for
        these networks; then nothing is planned.
    """
    if not images or shard_size < 1 or image_size < 1:
        raise Mistake(
            f"--images {images!r}, --shard_size {shard_size}, --image_size {image_size}: expected a folder "
            "or manifest, at least 1, at least 1"
        )
    directory = Path(directory)
    asked = dict(
        images=os.path.abspath(images),
        state=state_of_images(images),
        shard_size=shard_size,
        image_size=image_size,
        band_alias=[f"{theirs}={ours}" for theirs, ours in aliases.items()],
        max_blank=max_blank,
    )
    with locked_for_writing(directory, "the plan", say, "planning"):
        if (directory / "plan.json").exists():
            survey = open_survey(directory)
            refuse_changes(asked, survey.plan, f"{directory} was planned", "plan in another folder")
            refuse_networks(survey, wanted, aliases)
            return survey
        (directory / "shards").mkdir(exist_ok=True)
        # of a plan that was interrupted, and perhaps of another size
        for old in (directory / "shards").iterdir():
            old.unlink()
        shards = []
        apart = []
        bands: Counter = Counter()
        before = set()
        for paths in cut_between_objects(list_images(images), shard_size, aliases):
            text = "".join(f"{path}\n" for path in paths).encode()
            write_durably(list_path(directory, len(shards)), gzip.compress(text, 1, mtime=0))
            first = [parse_name(path, aliases) for path in paths[:LOOK]]
            bands.update(band for _, band in first)
            if both := sorted(before & {name for name, _ in first}):
                apart.append([len(shards) - 1, len(shards), len(both), both[0]])
            before = {parse_name(path, aliases)[0] for path in paths[-LOOK:]}
            if not shards:
                refuse_other_geometry(paths, image_size)
            shards.append([len(paths), content_digest(text)])
            if len(shards) % 100 == 0:
                say(f"{len(shards):,} shards, {sum(count for count, _ in shards):,} files")
        sync_folder(directory / "shards")
        done = dict(
            version=VERSION,
            **asked,
            files=sum(count for count, _ in shards),
            bands=dict(bands),  # as they are written
            apart=apart,
            shards=shards,
        )
        refuse_networks(Survey(directory, done), wanted, aliases)
        publish_file(directory / "plan.json", json.dumps(done, indent=1).encode())
    return Survey(directory, done)


def refuse_networks(survey: Survey, wanted: dict | None, aliases: Mapping[str, str]) -> None:
    if wanted:
        survey.refuse(wanted)
        survey.refuse_bands(wanted, aliases)


def share_of_shards(count: int, part: int, parts: int) -> range:
    """The shards, of `count`, of one part and, under torchrun, of this rank;
    a negative part is the array index of the scheduler.
    """
    given = [(f"${name}", int(os.environ[name])) for name in ARRAY_INDEX if name in os.environ]
    name, part = (
        ("--part", part) if part >= 0 else given[0] if given else ("--part", 0 if parts == 1 else part)
    )
    if not 0 <= part < parts:
        raise Mistake(
            f"{name} {part} of --parts {parts}: expected a part from 0 to {parts - 1}, or the array index of "
            "a scheduler"
        )
    return range(part, count, parts)[distributed.rank() :: distributed.world_size()]


def refuse_changes(asked: dict, there: dict, what: str, cure: str) -> None:
    there = dict(band_alias=[]) | there  # an option that was not there yet
    for name, value in asked.items():
        before = there.get(name, MAX_BLANK if name == "max_blank" else None)
        if before != value:
            raise Mistake(
                f"--{name}: got {value!r}, but {what} with {before!r}; {cure}"
                if name != "state"
                else f"--images {asked['images']!r} is {value}, but was {there[name]} when {what}; {cure}"
            )


def inventory_of_shard(paths: list[str], aliases: Mapping[str, str] = NO_ALIASES) -> pd.DataFrame:
    """One row a line, also where two lines are the same file;
    else as data/cutouts/buckets.py has it for unlabelled cutouts.
    """
    named = named_files(paths, aliases)
    if named.bands != named.written:
        check_apart(zip(named.objects), named.written, named.bands)
    table = pd.DataFrame({"path": paths, "object": named.objects, "band": named.bands, "domain": UNKNOWN[0]})
    return table.astype("str").assign(label=np.int8(UNKNOWN[1]))


def written_counts(paths: list[str], aliases: Mapping[str, str]) -> Counter:
    """How many files write each band."""
    return Counter(parse_name(path, aliases)[1] for path in paths)


def refuse_other_geometry(paths: list[str], image_size: int) -> None:
    """Raises: Mistake where the files of the first shard that are looked at have other pixels."""
    # when it is needed: astropy's coordinates take a second to import
    from data.catalogues.headers import look_at_headers, refuse_geometry

    headers = look_at_headers(paths, [""] * len(paths))
    refuse_geometry(headers, (image_size, image_size))


def reason_against(path: str, shape: tuple[int, int], max_blank: float) -> str:
    try:
        return reason_without_sky(read_cutout(path, shape), max_blank)
    except BadFile as error:
        return str(error)


def list_path(directory: Path, shard: int) -> Path:
    return directory / "shards" / f"{shard:06d}.txt.gz"
