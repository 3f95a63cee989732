"""Processes that work for a packing process: started afresh, ended with it, and missed in one line.

They are not forked: the parent has torch's threads and a run's signal handlers, none of which survive a fork
well. Nor are they multiprocessing's spawned ones, which import the parent's script again, and with it torch:
a worker that imports only numpy, pandas and astropy starts in a third of the time. They speak JSON lines.

The loader's processes are torch's own (data/order.py): they are forked, so that they share what a store has
found sound, and hand over tensors in shared memory.
"""

import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

from utils.mistake import Mistake

ROOT = str(Path(__file__).resolve().parent.parent)
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


class WorkerLost(RuntimeError):
    """A packing process ended without an answer."""


def leave_signals_to_the_parent(_worker: int = 0) -> None:
    """Mind no signal: schedulers signal every process of a job, and the parent answers for all."""
    for name in SIGNALS:
        signal.signal(getattr(signal, name), signal.SIG_IGN)


def work_through(
    task: Callable[..., None], jobs: Iterator[dict], workers: int, about: Callable[[dict], str]
) -> Iterator[dict]:
    """Calls `task(**job)` for each job in so many processes, 1: in this one; yields each job that is done.

    task: a function that its module holds under its own name. jobs: of what JSON can say.
    about: what a job is of, for the line that names it when its process is lost.
    Raises: OSError and Mistake as the task does; WorkerLost if a process is killed.
        Ends its processes however it is left.
    """
    if workers == 1:
        for job in jobs:
            task(**job)
            yield job
        return
    processes: list[subprocess.Popen] = []
    busy: dict = {}  # where an answer is to come from -> its process, and the job
    try:
        for _ in range(workers):
            processes.append(_started(task))
            _give(processes[-1], jobs, busy)
        while busy:
            for answering in select.select(list(busy), [], [])[0]:
                process, job = busy.pop(answering)
                _check_answer(answering.readline(), process, about(job))
                yield job
                _give(process, jobs, busy)
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _started(task: Callable[..., None]) -> subprocess.Popen:
    serve = f"from data.workers import serve; serve({task.__module__!r}, {task.__name__!r})"
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {ROOT!r}); {serve}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        start_new_session=True,  # Ctrl-C at the terminal reaches the parent alone
    )


def _give(process: subprocess.Popen, jobs: Iterator[dict], busy: dict) -> None:
    job = next(jobs, None)
    if job is not None:
        busy[process.stdout] = process, job
        try:
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it is gone: reading its answer says so


def _check_answer(line: bytes, process: subprocess.Popen, what: str) -> None:
    if not line:
        code = process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        raise WorkerLost(f"a packing process {how} among {what}")
    answer = json.loads(line)
    if "mistake" in answer:
        raise Mistake(answer["mistake"])
    if answer["errno"] is not None:
        raise OSError(answer["errno"], answer["error"], answer["file"])


def serve(module: str, name: str) -> None:
    """What a worker does: a job a line from standard input, an answer a line to standard output.

    It ends when its input does, which is when the parent is gone, also in the middle of a job.
    """
    leave_signals_to_the_parent()
    task = getattr(import_module(module), name)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()
    while True:
        print(json.dumps(_answer(task, json.loads(lines.get()))), file=answers, flush=True)


def _listen(lines: queue.SimpleQueue) -> None:
    # not sys.stdin: an interpreter that ends by an error aborts if a thread waits in that
    with open(0, "rb", closefd=False) as jobs:
        for line in jobs:
            lines.put(line)
    os._exit(0)


def _answer(task: Callable[..., None], job: dict) -> dict:
    try:
        task(**job)
    except OSError as error:
        return {"errno": error.errno or 0, "error": error.strerror or str(error), "file": error.filename}
    except Mistake as mistake:
        return {"errno": None, "mistake": str(mistake)}
    return {"errno": None}
