"""The run sheets, executed: the quickstart, the whole job on one machine, and three schedulers that are made of shell."""
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).parent.parent
EXTRA = "--model_size atto --epochs 1 --batch_size 16 --device cpu --bands g r --take_train_frac 0.3"       # two steps

# A scheduler of one file: reads the flags of its dialect, writes down what was asked, and runs the script at once, once
# for each index of the array; a dependency on a failed job is a job that never runs.
FAKE = r'''#!/usr/bin/env python3
import os, re, subprocess, sys
dialect, argv, home = "{dialect}", sys.argv[1:], os.environ["FAKE_HOME"]
flags = dict(slurm=r"--array=(\S+)", pbspro=r"-J (\S+)", torque=r"-t (\S+)")
line = " ".join(argv)
number = 100 + len([name for name in os.listdir(home) if name.startswith("job_")])
array = re.search(flags[dialect], line)
name = str(number) if dialect == "slurm" else f"{{number}}{{'[]' if array else ''}}.server"
open(f"{{home}}/job_{{number}}", "w").write(line + "\n")
for other in re.findall(r"after(?:ok|okarray):(\d+)", line):
    if os.path.exists(f"{{home}}/failed_{{other}}"):
        open(f"{{home}}/failed_{{number}}", "w").write("dependency")
        print(name)
        sys.exit()
script = argv.index("run_sheets/stage.sh")
first, last = map(int, array[1].split("-")) if array else (0, 0)
for index in range(first, last + 1):
    while True:
        own = dict(slurm=dict(SLURM_JOB_ID=str(number), SLURM_SUBMIT_DIR=os.getcwd()), pbspro=dict(PBS_O_WORKDIR=os.getcwd(), PBS_JOBID=name),
                   torque=dict(PBS_O_WORKDIR=os.getcwd(), PBS_JOBID=name))[dialect]
        if array:
            own |= dict(slurm=dict(SLURM_ARRAY_JOB_ID=str(number), SLURM_ARRAY_TASK_ID=str(index)), pbspro=dict(PBS_ARRAY_INDEX=str(index)),
                        torque=dict(PBS_ARRAYID=str(index)))[dialect]
        if os.path.exists(f"{{home}}/requeue"):
            os.remove(f"{{home}}/requeue")
        spool = f"{{home}}/spool.sh"                      # schedulers run a copy, far from the repository
        open(spool, "w").write(open(argv[script]).read())
        done = subprocess.run(["bash", spool, *argv[script + 1:]], env=os.environ | own, cwd=home, capture_output=True, text=True)
        open(f"{{home}}/log_{{number}}", "a").write(done.stdout + done.stderr + f"index {{index}} code {{done.returncode}}\n")
        if not os.path.exists(f"{{home}}/requeue"):
            break
    if done.returncode:
        open(f"{{home}}/failed_{{number}}", "w").write(str(done.returncode))
print(name)
'''


@pytest.fixture
def scheduler(tmp_path):
    """`scheduler("slurm")` is an environment in which that scheduler is at hand."""
    def install(dialect: str) -> dict[str, str]:
        home = tmp_path / "fake"
        home.mkdir()
        name = "sbatch" if dialect == "slurm" else "qsub"
        (home / name).write_text(FAKE.format(dialect=dialect))
        (home / "scontrol").write_text('#!/bin/sh\necho "$@" >> "$FAKE_HOME/requeue" && echo "$@" >> "$FAKE_HOME/requeued"\n')
        for script in (home / name, home / "scontrol"):
            script.chmod(0o755)
        return os.environ | dict(PATH=f"{home}:{os.environ['PATH']}", FAKE_HOME=str(home), PYTHON=sys.executable, OMP_NUM_THREADS="1")
    return install


def sheet(name, *arguments, env, **options):
    done = subprocess.run(["bash", str(ROOT / "run_sheets" / name), *arguments], env=env, cwd=ROOT, capture_output=True, text=True,
                          timeout=600, check=False, **options)
    return done


@pytest.mark.parametrize("dialect", ["slurm", "pbspro", "torque"])
def test_the_whole_job_under_a_scheduler_with_runs_cut_short(dialect, scheduler, challenge, tmp_path):
    """Every training job is over its time budget after one step: Slurm requeues it, PBS' next link takes it up."""
    env = scheduler(dialect) | dict(DATA=str(challenge), BLIND=str(challenge / "test_dataset"), RUNS=str(tmp_path / "runs"), SEEDS="1 2",
                                    EXTRA=EXTRA, STORES=str(tmp_path / "stores"), MAX_TIME="0.0001", LINKS="3", CONFIG="run_sheets/atto.yaml")
    done = sheet("submit.sh", dialect, env=env)
    home = Path(env["FAKE_HOME"])
    logs = "".join(path.read_text() for path in sorted(home.glob("log_*")))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "atto_ensemble" / "submission.csv").exists(), logs[-3000:]
    assert "code 75" in logs                              # a run was cut short ...
    assert "resumed at step" in logs                      # ... and went on
    if dialect == "slurm":
        assert (home / "requeued").read_text().startswith("requeue 100_")
        assert "--signal=B:USR1@300" in (home / "job_100").read_text()
    submission = pd.read_csv(tmp_path / "runs" / "atto_ensemble" / "submission.csv")
    assert len(submission) == 8 and submission["preds"].isin([0, 1]).all()
    last = (home / f"job_{99 + len(list(home.glob('job_*')))}").read_text()
    assert dict(slurm="--dependency=afterok:", pbspro="depend=afterok:", torque="depend=afterokarray:")[dialect] in last


def test_a_failed_stage_holds_back_the_next(scheduler, challenge, tmp_path):
    env = scheduler("slurm") | dict(DATA=str(tmp_path / "nowhere"), RUNS=str(tmp_path / "runs"), SEEDS="1")
    sheet("submit.sh", "slurm", env=env)
    home = Path(env["FAKE_HOME"])
    assert "is not a folder" in (home / "log_100").read_text() and (home / "failed_102").read_text() == "dependency"
    assert not list(tmp_path.glob("runs/*ensemble"))


def test_the_quickstart_ends_with_a_table_and_a_submission(tmp_path):
    env = os.environ | dict(STARLOOP_PYTHON=sys.executable, OUT=str(tmp_path / "q"), OBJECTS="12", BLIND_OBJECTS="6", EPOCHS="1")
    done = sheet("quickstart.sh", env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "roc_auc" in done.stdout or "AUC" in done.stdout
    assert len(pd.read_csv(tmp_path / "q" / "submission.csv")) == 6
    again = sheet("quickstart.sh", env=env)               # and a second time, on what is there
    assert again.returncode == 0, again.stderr[-3000:]


def test_nano_ensemble_runs_all_seeds_and_a_second_time_does_not_train(challenge, tmp_path):
    env = os.environ | dict(PYTHON=sys.executable, DATA=str(challenge), RUNS=str(tmp_path / "runs"), SEEDS="7 8", OMP_NUM_THREADS="1",
                            EXTRA=EXTRA, STORES=str(tmp_path / "stores"))
    for _ in range(2):
        done = sheet("nano_ensemble.sh", env=env)
        assert done.returncode == 0, done.stderr[-3000:]
    assert "nano_s7 is done" in done.stdout
    assert (tmp_path / "runs" / "nano_ensemble" / "test_ens_labeled.csv").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "run_sheets").glob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_is_read(path):
    import train
    from utils import config
    options = config.read(["--config", str(path)], *train.classes_for("lens", "single"))
    flat = config.flat(*options)
    for name, value in yaml.safe_load(path.read_text()).items():
        assert flat[name] == value


def test_every_sheet_is_sound_shell():
    for path in (ROOT / "run_sheets").glob("*.sh"):
        subprocess.run(["bash", "-n", str(path)], check=True)
