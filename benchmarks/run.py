"""Runs the benchmarks one after another, each in a process of its own,
and puts their rows into benchmarks/RESULTS.md.

    python benchmarks/run.py
    python benchmarks/run.py --only fits_speed "lens_auc --data runs/lens_auc/data"

The section of a script that ran replaces the one of its last run, and has both tables if --only names it
twice; all other sections stay. A script that fails is listed with its last line, and the exit code is 1. Give
it an idle machine: the load at the start is written down with the figures.
"""

import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from table import Row, markdown, read  # noqa: E402  the path above comes first
from utils import config, files  # noqa: E402
from utils.config import several  # noqa: E402
from utils.mistake import Mistake  # noqa: E402

SHORT = (
    "convnext_speed",
    "train_step",
    "loop_overhead",
    "resume_latency",
    "gru_speed",
    "fits_speed",
    "shuffled_reads",
    "preprocess_speed",
    "predict_speed",
    "checkpoint_stall",
    "gpu_speed",
)
LENS = ("lens_models", "lens_physics", "lens_quantities", "lens_robustness", "slacs_rings")
# only when named
LONG = (
    "growth",
    "galaxiesml_speed",
    "fuzz_fits",
    "kill_resume",
    "lens_auc",
    "light_curve_vae",
    "rr_lyrae",
    *LENS,
)
# what these print is kept as it is: they make no rows
OWN_TABLES = ("lens_auc", "light_curve_vae", "rr_lyrae", *LENS)
SCRIPTS = ROOT / "benchmarks"
BEGINS, ENDS = "<!-- benchmarks/run.py begins -->", "<!-- benchmarks/run.py ends -->"
BUSY = 0.5  # load average from which on figures are not to be trusted


@dataclass(frozen=True)
class Config:
    # scripts, each with options of its own in quotes; none: all but the long ones
    only: list[str] = several()
    results: str = str(SCRIPTS / "RESULTS.md")  # file with the two marker lines

    def __post_init__(self):
        for command in self.only:
            config.pick("only", (command.split() or [""])[0], dict.fromkeys(SHORT + LONG))


def machine(load: float) -> str:
    """Processor, memory, load at the start and versions, in words."""
    cpuinfo, wanted = Path("/proc/cpuinfo"), (ROOT / "requirements-benchmarks.txt").read_text()
    model = re.search(r"model name\s*: (.+)", cpuinfo.read_text() if cpuinfo.exists() else "")
    memory, versions = (
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30,
        [f"Python {platform.python_version()}"],
    )
    for package in ("torch", "timm", "numpy", "astropy", *re.findall(r"^([\w.-]+)==", wanted, re.MULTILINE)):
        with suppress(metadata.PackageNotFoundError):
            versions.append(f"{package} {metadata.version(package)}")
    processor = f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB"
    return f"{processor}, load {load:.2f} at the start; {', '.join(versions)}"


def script_of(name: str) -> Path:
    """The script of this name, in whatever folder of benchmarks/ it is."""
    return next(SCRIPTS.rglob(f"{name}.py"), SCRIPTS / f"{name}.py")


def run(name: str, arguments: list[str]) -> tuple[list[Row], list[str], int]:
    """The rows of a script, the lines that it printed, which are passed on as they come,
    and its exit code.
    """
    with tempfile.TemporaryDirectory() as folder:
        rows, lines = Path(folder) / "rows.json", []
        argv = [
            sys.executable,
            str(script_of(name)),
            *arguments,
            *([] if name in OWN_TABLES else ["--json", str(rows)]),
        ]
        with subprocess.Popen(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=os.environ | dict(OMP_NUM_THREADS="1", PYTHONUNBUFFERED="1"),
        ) as process:
            try:
                for line in process.stdout:
                    print(line, end="", flush=True)
                    lines.append(line.rstrip())
            except KeyboardInterrupt:
                # a terminal sends it to the script as well, which cleans up behind itself
                with suppress(subprocess.TimeoutExpired):
                    process.wait(5)
                process.kill()
                raise
        return read(rows) if rows.exists() else [], lines, process.returncode


def section(command: str, when: str, rows: list[Row], lines: list[str], code: int) -> str:
    """What RESULTS.md says of a script, below its heading."""
    parts = [f"`python benchmarks/{command}`, {when}"]
    if code:
        parts.append(
            f"**Failed**, exit code {code}: "
            f"`{([line for line in lines if line] or ['nothing was printed'])[-1]}`"
        )
    if rows:
        parts.append(markdown(rows))
    elif not code:
        parts.append("\n".join(["```", *lines, "```"]))
    return "\n\n".join(parts)


def splice(text: str, new: dict[str, str], stamp: str, about: str) -> str:
    """`text` with these sections in place of those of the same name between the marker lines.

    Raises Mistake where the marker lines are not there.
    """
    if not (found := re.fullmatch(f"(.*^{BEGINS}$)(.*)(^{ENDS}$.*)", text, re.DOTALL | re.MULTILINE)):
        raise Mistake(f"--results: expected a file with the lines {BEGINS!r} and {ENDS!r}")
    head, old, tail = found.groups()
    pieces = re.split(r"^### (\w+)\n", old, flags=re.MULTILINE)
    sections = {name: body.strip() for name, body in zip(pieces[1::2], pieces[2::2])} | new
    runs = dict(re.findall(r"^- ([\d: -]+ UTC): (.+)$", pieces[0], re.MULTILINE)) | {stamp: about}
    lines = [
        f"- {when}: {words}"
        for when, words in runs.items()
        if any(f", run of {when}\n" in f"{body}\n" for body in sections.values())
    ]
    blocks = [
        "\n".join(lines),
        *(f"### {name}\n\n{sections[name]}" for name in SHORT + LONG if name in sections),
    ]
    return head + "\n\n" + "".join(f"{block}\n\n" for block in blocks if block) + tail


def main(argv: list[str]) -> None:
    (options,) = config.read_options(argv, Config)
    results, load, stamp = (
        Path(options.results),
        os.getloadavg()[0],
        time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    )
    # marker lines that are missing are named before the work, not after
    splice(results.read_text(), {}, stamp, "")
    if load > BUSY:
        print(
            f"run.py: the machine is busy (load average {load:.2f}): figures will be off, ratios less so",
            file=sys.stderr,
        )
    sections, failed = {}, []
    for command in options.only or SHORT:
        name, *arguments = shlex.split(command)
        print(f"\n=== {command}", flush=True)
        began = time.monotonic()
        rows, lines, code = run(name, arguments)
        took = f"{time.monotonic() - began:.0f} s"
        print(f"=== {name}: {took}" + (f", failed with exit code {code}" if code else ""), flush=True)
        body = section(" ".join([f"{name}.py", *arguments]), f"{took}, run of {stamp}", rows, lines, code)
        sections[name] = "\n\n".join(filter(None, [sections.get(name), body]))
        failed += [name] if code else []
    about = machine(load)
    print(
        f"\n{about}\n\n" + "\n\n".join(f"### {name}\n\n{body}" for name, body in sections.items()), flush=True
    )
    with files.whole(results) as temporary:
        temporary.write_text(splice(results.read_text(), sections, stamp, about))
    if failed:
        print(f"run.py: failed: {', '.join(failed)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    config.run_script(main)
