"""Blocks of a store: some thousand cutouts read and written by one process,
durable before they are called done.

Packing processes are started afresh, not forked: the parent has torch's threads and a run's signal handlers,
none of which survive a fork well, and a worker that imports only numpy and astropy starts in a third of a
second. They speak JSON lines, and end when the parent does because their input ends.
"""

import json
import os
import select
import signal
import subprocess
import sys
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from data.cutouts.fits_blocks import read_cutouts
from data.cutouts.source import Source, open_source
from utils.files import write_durably
from utils.mistake import Mistake

ROOT = str(Path(__file__).resolve().parent.parent.parent)


class WorkerLost(RuntimeError):
    """A packing process ended without an answer."""


def pack_block(
    record: str, pixels: str, offset: int, first: int, count: int, shape: list[int], source: list[str] | dict
) -> None:
    """Reads the cutouts of a block, writes them into the pixel file,
    and then the record that says they are on disk.

    record: JSON file to write: first row, count, crc32 of the bytes, {row:
        reason} of refused files (pixels zero).
    pixels: existing file; offset: byte of row `first` in it.
    source: the FITS files, or the recipe of a source (data/cutouts/source.py) whose rows these are.
    Raises: OSError for a full disk or trouble of the machine.
    """
    if isinstance(source, dict):
        images, bad = opened(json.dumps(source)).read(range(first, first + count))
    else:
        images, refused = read_cutouts(source, tuple(shape))
        bad = {first + row: reason for row, reason in refused.items()}
    block = np.ascontiguousarray(images, dtype="<f4")
    with open(pixels, "r+b") as file:  # written, not mapped: a full disk is then an error and not a SIGBUS
        file.seek(offset)
        file.write(block.data)
        file.flush()
        os.fsync(file.fileno())
    done = {"first": first, "count": count, "crc32": zlib.crc32(block.data), "bad": bad}
    write_durably(record, json.dumps(done).encode())


@lru_cache(maxsize=1)
def opened(recipe: str) -> Source:
    """The source of a recipe, kept for the next block."""
    return open_source(json.loads(recipe))


def pack_blocks(jobs: Iterator[dict], workers: int) -> Iterator[int]:
    """Does the jobs (arguments of `pack_block`) in so many processes, 1: in this one;
    yields the count of each done.

    Raises: OSError as `pack_block`; WorkerLost if a process is killed. Ends its processes however it is left.
    """
    if workers == 1:
        for job in jobs:
            pack_block(**job)
            yield job["count"]
        return
    start = [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {ROOT!r}); from data.cutouts.blocks import serve; serve()",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    processes, busy = [], {}
    try:
        for _ in range(workers):  # in sessions of their own: Ctrl-C at the terminal reaches the parent alone
            processes.append(
                subprocess.Popen(
                    start,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=environment,
                    start_new_session=True,
                )
            )
            _give(processes[-1], jobs, busy)
        while busy:
            for answering in select.select(list(busy), [], [])[0]:
                process, job = busy.pop(answering)
                _check_answer(answering.readline(), process, job)
                yield job["count"]
                _give(process, jobs, busy)
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _give(process: subprocess.Popen, jobs: Iterator[dict], busy: dict) -> None:
    job = next(jobs, None)
    if job is not None:
        busy[process.stdout] = process, job
        try:
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it is gone: reading its answer says so


def _check_answer(line: bytes, process: subprocess.Popen, job: dict) -> None:
    if not line:
        code = process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        source, last = job["source"], job["first"] + job["count"] - 1
        which = (
            f"rows {job['first']} to {last}"
            if isinstance(source, dict)
            else f"files {source[0]} to {source[-1]}"
        )
        raise WorkerLost(f"a packing process {how} among {which}")
    answer = json.loads(line)
    if "mistake" in answer:
        raise Mistake(answer["mistake"])
    if answer["errno"] is not None:
        raise OSError(answer["errno"], answer["error"], answer["file"])


def serve() -> None:
    """What a packing process does: a job a line from standard input, an answer a line to standard output."""
    # Schedulers signal every process of a job; the parent answers for all.
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    for line in sys.stdin:
        answer = {"errno": None}
        try:
            pack_block(**json.loads(line))
        except OSError as error:
            answer = {
                "errno": error.errno or 0,
                "error": error.strerror or str(error),
                "file": error.filename,
            }
        except Mistake as mistake:
            answer = {"errno": None, "mistake": str(mistake)}
        print(json.dumps(answer), file=answers, flush=True)
