"""Write a simulated data set in the real files' format, so that everything runs without a download.

    python simulate.py challenge --out D --objects 1000 --seed 7
    python simulate.py challenge --out D --objects 1000 --seed 7 --blind 2000 --workers 2
    python simulate.py challenge --help
    python simulate.py light_curves --out D --curves 4096 --seed 7 --workers 2
    python simulate.py light_curves --help

`challenge` is the LSST strong-lens challenge: D/slsim_lenses, slsim_nonlenses, hsc_lenses, hsc_nonlenses,
each with --objects objects of five FITS files (one a band) and parameters.fits; D/objects.csv says what each
object is. With --blind: D/test_dataset, unlabelled, and D/test_truth.csv. `light_curves` is eROSITA: one FITS
file a source, of the form of eRebin's or of srctool's, six kinds of variability equally frequent;
D/labels.csv says what each source is and what was drawn. The same command again finishes what was
interrupted, and with more objects it adds to what is there.
"""

import multiprocessing
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from simulations.challenge import files
from simulations.challenge.lenses import BANDS
from simulations.light_curves import products
from simulations.light_curves.survey import Survey, read_exposures
from utils import config
from utils.config import Options, option, several
from utils.files import read_json, write_json
from utils.mistake import Mistake

DOMAINS = ("slsim", "hsc")


@dataclass(frozen=True)
class ChallengeConfig(Options):
    out: str = ""  # directory to write to (required)
    # objects of each class in each domain, that is of each of the four folders
    objects: int = option(1000, least=0)
    blind: int = option(0, least=0)  # objects of the unlabelled test set: half lenses, half of each domain
    seed: int = 7  # an object's pixels follow from this, its folder and its number
    bands: list[str] = several(*BANDS)  # bands to write
    domains: list[str] = several(*DOMAINS)  # slsim: as one-year coadds of Rubin; hsc: as degraded HSC
    workers: int = option(2, least=1)  # processes; they do not change a byte

    def __post_init__(self):
        super().__post_init__()
        if not self.out:
            raise Mistake("--out is missing: give the directory to write to, for example --out simulated")
        if self.objects + self.blind == 0:
            raise Mistake("--objects and --blind are both 0: nothing to write; give one of them")
        for flag, values, known in (("bands", self.bands, BANDS), ("domains", self.domains, DOMAINS)):
            wrong = [value for value in values if value not in known]
            if wrong or not values or len(set(values)) < len(values):
                raise Mistake(
                    f"--{flag} is {' '.join(values) or 'empty'}; give each of {' '.join(known)} at most once"
                )


def challenge(options: ChallengeConfig) -> None:
    """The strong-lens challenge: see the head of this file."""
    root = Path(options.out)
    start = time.perf_counter()
    claim(
        root,
        {
            "simulation": "challenge",
            "version": 1,
            "seed": options.seed,
            "bands": options.bands,
            "domains": options.domains,
        },
        {"objects": options.objects, "blind": options.blind},
    )
    folders = {}
    if options.objects:
        folders = {
            files.bucket_name(domain, label): options.objects
            for domain in options.domains
            for label in (1, 0)
        }
    if options.blind:
        folders[files.BLIND] = options.blind
    rows: dict[str, list[dict]] = {folder: [] for folder in folders}
    jobs = []
    for folder, count in folders.items():
        (root / folder).mkdir(exist_ok=True)
        jobs += files.batches(root, folder, options.seed, count, options.bands, options.domains)
    for job, written in zip(jobs, spread(files.write_batch, jobs, options.workers)):
        rows[job.folder] += written
    for folder in folders.keys() - {files.BLIND}:
        files.write_parameters(root / folder / "parameters.fits", rows[folder][0]["label"], rows[folder])
    if options.blind:
        files.write_table(root / "test_truth.csv", rows.pop(files.BLIND), ["id", "label", "domain", "kind"])
    if options.objects:
        files.write_table(root / "objects.csv", sum(rows.values(), []), ["id", "label", "domain", "kind"])
    total = sum(folders.values())
    seconds = time.perf_counter() - start
    print(
        f"{total} objects in {len(options.bands)} bands in {root}: {seconds:.1f} s, {total / seconds:.0f} "
        "objects/s"
    )


@dataclass(frozen=True)
class LightCurvesConfig(Survey):
    out: str = ""  # directory to write to (required)
    curves: int = option(4096, least=1)  # sources, one light curve each
    seed: int = 7  # a curve follows from this, its number and the options above
    workers: int = option(2, least=1)  # processes; they do not change a byte

    def __post_init__(self):
        super().__post_init__()
        if not self.out:
            raise Mistake("--out is missing: give the directory to write to, for example --out simulated")


def light_curves(options: LightCurvesConfig) -> None:
    """eROSITA light curves: see the head of this file."""
    root = Path(options.out)
    start = time.perf_counter()
    survey = Survey(**{each.name: getattr(options, each.name) for each in fields(Survey)})
    if survey.exposures:
        read_exposures(survey.exposures)
    claim(
        root,
        {"simulation": "light_curves", "version": 1, "seed": options.seed} | asdict(survey),
        {"curves": options.curves},
    )
    rows = sum(
        spread(
            products.write_batch,
            products.batches(root, options.seed, options.curves, survey),
            options.workers,
        ),
        [],
    )
    files.write_table(root / "labels.csv", rows, products.LABELS)
    seconds = time.perf_counter() - start
    print(
        f"{options.curves} light curves in {root}: {seconds:.1f} s, {options.curves / seconds:.0f} curves/s"
    )


def claim(root: Path, record: dict, counts: dict[str, int]) -> None:
    """Make `root`, or go on in it if the simulation of `record` began there with no more than `counts`;
    raises Mistake where anything else is.
    """
    path = root / "simulation.json"
    if root.exists() and not root.is_dir():
        raise Mistake(f"--out {root} is a file; give a directory")
    if root.is_dir() and any(root.iterdir()):
        if not path.exists():
            raise Mistake(
                f"--out {root} holds files that are not from simulate.py; give an empty or a new directory"
            )
        there = read_json(path, "out", "simulate.py")
        for name, value in record.items():
            if there.get(name) != value:
                raise Mistake(
                    f"--out {root} holds a simulation with {name} {there.get(name)}, this one has {value}; "
                    f"give another directory, or the same {name}"
                )
        for name, value in counts.items():
            if there[name] > value:
                raise Mistake(
                    f"--out {root} holds a simulation of {there[name]} {name}, more than --{name} {value}; "
                    f"give another directory, or --{name} {there[name]}"
                )
    root.mkdir(parents=True, exist_ok=True)
    write_json(path, record | counts, indent=1)


def spread(function, jobs: list, workers: int):
    """`function` of each job, in order, over processes."""
    # A process takes longer to start than to write a dozen batches.
    workers = min(workers, max(1, len(jobs) // 12))
    if workers == 1:
        yield from map(function, jobs)
        return
    # spawn: a forked process would inherit torch's threads in an unknown state.
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(function, jobs)


# One entry for each kind of data set: its options and what writes it.
SIMULATIONS = {"challenge": (ChallengeConfig, challenge), "light_curves": (LightCurvesConfig, light_curves)}


def main(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return
    options, write = config.pick("simulation", argv[0], SIMULATIONS)
    write(*config.read_options(argv[1:], options, script=f"simulate.py {argv[0]}"))


def console() -> None:
    """The command starloop-simulate of an installed Starloop (pyproject.toml)."""
    config.run_script(main)


if __name__ == "__main__":
    console()
