"""Which files there are: in a folder and those below it, or in a manifest; a stream, however many they are.

A manifest is a text file, or a .gz of one, of one path a line: relative to its own folder, or absolute, also
by ~ or $HOME; empty lines and those that begin with # say nothing. It stands for a folder wherever a folder
can stand.
"""

import gzip
import os
import stat
import time
import zlib
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from data.formats import Format
from data.names import NOT_CUTOUTS, SUFFIXES, check_utf8, parse_name
from utils.files import is_trouble
from utils.messages import say
from utils.mistake import Mistake

FORMATS = (
    Format(
        "manifest",
        "a text file, or a .gz of one, where a folder can stand",
        "one path a line: absolute, by ~ or $NAME, or relative to the folder of the manifest; # is a comment",
        "what is not UTF-8, or holds zero bytes; a name of an unknown user or variable is taken as it is",
    ),
)
LINES = 65_536  # read at once
LONGEST = 1_000  # files of one object that a shard may hold more than its size
JUNK = frozenset(("thumbs.db", "desktop.ini", "icon\r"))
MOST_LINKS = 40  # in a row, as many as Linux follows


class Folder(NamedTuple):
    """The files of one folder that are looked for."""

    path: str  # as it was found
    names: list[str]  # sorted
    paths: list[str]  # the same, with the folder before them
    links: set[str]  # those of the names that are symbolic links
    below: list[str]  # names of the folders in it, sorted
    others: list[
        str
    ]  # names of its files that end otherwise, sorted, without hidden ones and what systems leave


def files_of_folder(path: str, suffixes: tuple[str, ...], but: Container[str] = ()) -> Folder:
    """The files whose names end so, in whatever case, and are not among `but`; a broken link is a file too.

    Raises: Mistake for a folder that may not be read, or a name that no table can hold.
    """
    names: list[str] = []
    links: set[str] = set()
    below: list[str] = []
    others: list[str] = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                is_link = entry.is_symlink()
                if entry.is_dir(follow_symlinks=False) or (is_link and os.path.isdir(entry.path)):
                    below.append(entry.name)
                elif entry.name.lower().endswith(suffixes) and entry.name not in but:
                    names.append(entry.name)
                    if is_link:
                        links.add(entry.name)
                elif not (entry.name.startswith(".") or entry.name in but or entry.name.lower() in JUNK):
                    others.append(entry.name)
    except OSError as error:
        raise Mistake(
            f"the folder {path!r} may not be read: {error.strerror}; mend that, or leave it out"
        ) from None
    names.sort()
    home = os.path.join(path, "")
    paths = [home + name for name in names]
    check_utf8(paths)
    return Folder(path, names, paths, links, sorted(below), sorted(others))


def skipped_files(folders: Iterable[Folder], what: str = "no FITS files") -> str:
    """A line on the files of these folders that are not taken, "" where there is none: how many of each
    suffix, and the first by name.
    """
    others = [(folder.path, name) for folder in folders for name in folder.others]
    if not others:
        return ""
    kinds = Counter(os.path.splitext(name)[1].lower() or "without suffix" for _, name in others)
    each = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(6))
    first = os.path.join(*others[0])
    return f"skipped, as they are {what}: {len(others):,} files ({each}), the first is {first}"


def walk_folders(top: str, suffixes: tuple[str, ...], but: Container[str] = ()) -> Iterator[Folder]:
    """A folder, then those below it, sorted, links to folders followed. Raises: as `files_of_folder`."""
    seen = set()  # each folder once: links in a circle end
    waiting = [top]
    while waiting:
        path = waiting.pop()
        try:
            status = os.stat(path)
        except OSError as error:
            raise Mistake(f"the folder {path!r} is gone: {error.strerror}") from None
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        folder = files_of_folder(path, suffixes, but)
        yield folder
        waiting += [os.path.join(path, name) for name in reversed(folder.below)]


def read_listing(manifest: str, flag: str, home: str | None = None) -> Iterator[list[str]]:
    """The paths of a manifest, some at a time, in its order.

    home: what they are relative to, else the folder of the manifest as it is spelled. flag: who asked for it.
    Raises: Mistake for what cannot be read, or is not text.
    """
    home = os.path.join(os.path.dirname(manifest) if home is None else home, "")
    opened = gzip.open if manifest.lower().endswith(".gz") else open
    try:
        with opened(manifest, "rt", encoding="utf-8-sig") as file:
            while lines := list(islice(file, LINES)):
                names = [name for line in lines if (name := line.strip()) and name[0] != "#"]
                if any("\0" in name for name in names):
                    raise Mistake(f"{flag} {manifest!r} is not text: expected a manifest (one path a line)")
                names = [expanded(name) if name[0] in "~$" else name for name in names]
                paths = [name if name[0] == "/" else home + name for name in names]
                check_utf8(paths)
                yield paths
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        if is_trouble(error):
            raise
        raise Mistake(
            f"{flag} {manifest!r} cannot be read as a manifest (text, one path a line): {error}"
        ) from None


def expanded(name: str) -> str:
    """A path with its leading ~, ~user or $NAME as a shell reads it; as it is where there is no such user or
    variable.
    """
    first, slash, rest = name.partition("/")
    return (os.path.expanduser(first) if first[0] == "~" else os.path.expandvars(first)) + slash + rest


class RealPaths:
    """os.path.realpath of many files; each folder is resolved once,
    where realpath asks the disk for all its parts.
    """

    def __init__(self):
        self.folders: dict[str, str] = {}

    def of_folder(self, folder: str) -> str:
        if folder not in self.folders:
            self.folders[folder] = os.path.realpath(folder)
        return self.folders[folder]

    def __call__(self, path: str) -> str:
        for _ in range(MOST_LINKS):
            folder, name = os.path.split(path)
            path = f"{self.of_folder(folder)}/{name}"
            try:
                path = os.path.join(self.of_folder(folder), os.readlink(path))
            except OSError:  # not a link, or not there
                return path
        return path


def check_images(images: str, flag: str) -> None:
    """Raises: Mistake for what is no folder of cutouts and no manifest."""
    if os.path.isdir(images):
        return
    if not os.path.exists(images):
        raise Mistake(
            f"{flag} {images!r} does not exist: expected a folder of cutouts or a manifest (one path a line)"
        )
    if images.lower().endswith(SUFFIXES):
        raise Mistake(
            f"{flag} {images!r} is one FITS file: expected its folder, or a manifest (one path a line)"
        )


def state_of_images(images: str) -> str:
    """What a second look at the input of a survey compares without reading it."""
    check_images(images, "--images")
    status = os.stat(images)
    if stat.S_ISDIR(status.st_mode):
        return "a folder"
    return f"{status.st_size} bytes of {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(status.st_mtime))} UTC"


def list_images(images: str) -> Iterator[list[str]]:
    """The absolute paths of a folder (folder after folder, each sorted) or of a manifest, some at a time."""
    top = os.path.abspath(images)
    skipped: list[Folder] = []
    if os.path.isdir(images):
        some = _paths_of_folders(walk_folders(top, SUFFIXES, NOT_CUTOUTS), skipped)
    else:
        some = read_listing(images, "--images", os.path.dirname(top))
    empty = True
    for paths in some:
        if wrong := [path for path in paths if "\n" in path]:
            raise Mistake(
                f"--images {images!r}: the name {wrong[0]!r} is no line of text: rename the file, or give a "
                "manifest of text"
            )
        empty = empty and not paths
        yield paths
    others = skipped_files(skipped)
    if others and not empty:
        say(others)
    if empty:
        raise Mistake(
            f"--images {images!r} holds no cutout: expected files named like D1_L_00000000_g.fits, or a line "
            f"for each{f' ({others})' if others else ''}"
        )


def _paths_of_folders(folders: Iterable[Folder], with_others: list[Folder]) -> Iterator[list[str]]:
    """Their paths; a folder that holds others too is kept in the list, without its paths."""
    for folder in folders:
        if folder.others:
            with_others.append(folder._replace(names=[], paths=[], links=set(), below=[]))
        yield folder.paths


def cut_between_objects(
    some: Iterator[list[str]], size: int, known: Iterable[str] = ()
) -> Iterator[list[str]]:
    """Shards of `size` files, and as many more as the object of the last one has.

    known: bands that the names end in, besides the usual ones (data/names.parse_name).
    """
    shard: list[str] = []
    for paths in some:
        at = 0
        while at < len(paths):
            taken = paths[at : at + max(0, size - len(shard))]
            shard += taken
            at += len(taken)
            if len(shard) >= size:
                last = parse_name(shard[-1], known)[0]
                while at < len(paths) and len(shard) < size + LONGEST:
                    if parse_name(paths[at], known)[0] != last:
                        break
                    shard.append(paths[at])
                    at += 1
                if at < len(paths):
                    yield shard
                    shard = []
    if shard:
        yield shard
