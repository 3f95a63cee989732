"""The run sheets, executed: the quickstart, the whole job on one machine,
and three schedulers that are made of shell.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from model import MODELS
from tests.conftest import ROOT
from utils import checkpoint

# two steps
EXTRA = "--model_size atto --epochs 1 --batch_size 16 --device cpu --bands g r --take_train_frac 0.3"

# A scheduler of one file: reads the flags of its dialect, writes down what was asked, and runs the script at
# once, once for each index of the array; a dependency on a failed job is a job that never runs.
FAKE = r"""#!/usr/bin/env python3
import os, re, subprocess, sys
dialect, argv, home = "{dialect}", sys.argv[1:], os.environ["FAKE_HOME"]
flags = dict(slurm=r"--array=(\S+)", pbspro=r"-J (\S+)", torque=r"-t (\S+)")
line = " ".join(argv)
number = 100 + len([name for name in os.listdir(home) if name.startswith("job_")])
array = re.search(flags[dialect], line)
name = str(number) if dialect == "slurm" else f"{{number}}{{'[]' if array else ''}}.server"
open(f"{{home}}/job_{{number}}", "w").write(line + "\n")
for other in re.findall(r"after(?:ok|okarray|corr):(\d+)", line):
    if os.path.exists(f"{{home}}/failed_{{other}}"):
        open(f"{{home}}/failed_{{number}}", "w").write("dependency")
        print(name)
        sys.exit()
script = next(at for at, word in enumerate(argv) if word.startswith("run_sheets/"))
first, last = map(int, array[1].partition("%")[0].split("-")) if array else (0, 0)
for index in range(first, last + 1):
    while True:
        of_pbs = dict(PBS_O_WORKDIR=os.getcwd(), PBS_JOBID=name, PBS_NODEFILE=f"{{home}}/nodes")
        of_slurm = dict(SLURM_JOB_ID=str(number), SLURM_SUBMIT_DIR=os.getcwd(), SLURM_JOB_NODELIST="nid[1-2]")
        own = dict(slurm=of_slurm, pbspro=of_pbs, torque=of_pbs)[dialect]
        if array:
            of_slurm = dict(SLURM_ARRAY_JOB_ID=str(number), SLURM_ARRAY_TASK_ID=str(index))
            of_pbspro = dict(PBS_ARRAY_INDEX=str(index))
            own |= dict(slurm=of_slurm, pbspro=of_pbspro, torque=dict(PBS_ARRAYID=str(index)))[dialect]
        if os.path.exists(f"{{home}}/requeue"):
            os.remove(f"{{home}}/requeue")
        spool = f"{{home}}/spool.sh"  # schedulers run a copy, far from the repository
        open(spool, "w").write(open(argv[script]).read())
        command = ["bash", spool, *argv[script + 1:]]
        done = subprocess.run(command, env=os.environ | own, cwd=home, capture_output=True, text=True)
        ended = f"index {{index}} code {{done.returncode}}\n"
        open(f"{{home}}/log_{{number}}", "a").write(done.stdout + done.stderr + ended)
        if not os.path.exists(f"{{home}}/requeue"):
            break
    if done.returncode:
        open(f"{{home}}/failed_{{number}}", "w").write(str(done.returncode))
print(name)
"""

SCONTROL = """#!/bin/sh
[ "$1" = show ] && { printf 'localhost\\nlocalhost\\n'; exit; }
echo "$@" >> "$FAKE_HOME/requeue" && echo "$@" >> "$FAKE_HOME/requeued"
"""
# What starts a command on each of two nodes, which are both this machine. pbsdsh gives it no environment.
TWICE = """first=0; second=0
"$@" & one=$!
"$@" & two=$!
wait $one || first=$?
wait $two || second=$?
exit $((first > second ? first : second))
"""
SRUN = f"""#!/bin/bash
trap 'kill -TERM $one $two' TERM
while [[ $1 == --* ]]; do shift; done
{TWICE}"""
PBSDSH = f"""#!/bin/bash
[ "$1" = EXPECTED ] || exit 9
while [ "$1" != -- ]; do shift; done
shift
cd /
set -- env -i PATH=/usr/bin:/bin "$@"
{TWICE}"""
STARTERS = dict(slurm=SRUN, pbspro=PBSDSH.replace("EXPECTED", "--"), torque=PBSDSH.replace("EXPECTED", "-u"))


@pytest.fixture
def scheduler(tmp_path):
    """`scheduler("slurm")` is an environment in which that scheduler is at hand."""

    def install(dialect: str) -> dict[str, str]:
        home = tmp_path / "fake"
        home.mkdir()
        name = "sbatch" if dialect == "slurm" else "qsub"
        (home / name).write_text(FAKE.format(dialect=dialect))
        (home / "scontrol").write_text(SCONTROL)
        (home / "nodes").write_text("localhost\nlocalhost\n")
        starter = home / dict(slurm="srun").get(dialect, "pbsdsh")
        starter.write_text(STARTERS[dialect])
        for script in (home / name, home / "scontrol", starter):
            script.chmod(0o755)
        return os.environ | dict(
            PATH=f"{home}:{os.environ['PATH']}",
            FAKE_HOME=str(home),
            PYTHON=sys.executable,
            OMP_NUM_THREADS="1",
        )

    return install


def sheet(name, *arguments, env, **options):
    done = subprocess.run(
        ["bash", str(ROOT / "run_sheets" / name), *arguments],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        **options,
    )
    return done


@pytest.mark.parametrize("dialect", ["slurm", "pbspro", "torque"])
def test_the_whole_job_under_a_scheduler_with_runs_cut_short(dialect, scheduler, challenge, tmp_path):
    """Every training job is over its time budget after one step:
    Slurm requeues it, PBS' next link takes it up.
    """
    env = scheduler(dialect) | dict(
        DATA=str(challenge),
        BLIND=str(challenge / "test_dataset"),
        RUNS=str(tmp_path / "runs"),
        SEEDS="1 2",
        EXTRA=EXTRA,
        STORES=str(tmp_path / "stores"),
        MAX_TIME="0.0001",
        LINKS="3",
        CONFIG="run_sheets/atto.yaml",
    )
    done = sheet("submit.sh", dialect, env=env)
    home = Path(env["FAKE_HOME"])
    logs = "".join(path.read_text() for path in sorted(home.glob("log_*")))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "atto_ensemble" / "submission.csv").exists(), logs[-3000:]
    assert "code 75" in logs  # a run was cut short ...
    assert "resumed at step" in logs  # ... and went on
    if dialect == "slurm":
        assert (home / "requeued").read_text().startswith("requeue 101_")
        assert "--signal=B:USR1@300" in (home / "job_101").read_text()
    submission = pd.read_csv(tmp_path / "runs" / "atto_ensemble" / "submission.csv")
    assert len(submission) == 8 and submission["preds"].isin([0, 1]).all()
    last = (home / f"job_{99 + len(list(home.glob('job_*')))}").read_text()
    assert (
        dict(slurm="--dependency=afterok:", pbspro="depend=afterok:", torque="depend=afterokarray:")[dialect]
        in last
    )


def test_a_failed_stage_holds_back_the_next(scheduler, challenge, tmp_path):
    (tmp_path / "empty").mkdir()
    env = scheduler("slurm") | dict(DATA=str(tmp_path / "empty"), RUNS=str(tmp_path / "runs"), SEEDS="1")
    assert sheet("submit.sh", "slurm", env=env).returncode == 0
    home = Path(env["FAKE_HOME"])
    assert "code 2" in (home / "log_100").read_text()
    assert [(home / f"failed_{job}").read_text() for job in (101, 102, 103)] == ["dependency"] * 3
    assert not list(tmp_path.glob("runs/*ensemble"))


def test_the_quickstart_ends_with_a_table_and_a_submission(tmp_path):
    env = os.environ | dict(
        STARLOOP_PYTHON=sys.executable, OUT=str(tmp_path / "q"), OBJECTS="12", BLIND_OBJECTS="6", EPOCHS="1"
    )
    done = sheet("quickstart.sh", env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "roc_auc" in done.stdout or "AUC" in done.stdout
    assert len(pd.read_csv(tmp_path / "q" / "submission.csv")) == 6
    again = sheet("quickstart.sh", env=env)  # and a second time, on what is there
    assert again.returncode == 0, again.stderr[-3000:]


def test_nano_ensemble_runs_all_seeds_and_a_second_time_does_not_train(challenge, tmp_path):
    env = os.environ | dict(
        PYTHON=sys.executable,
        DATA=str(challenge),
        RUNS=str(tmp_path / "runs"),
        SEEDS="7 8",
        OMP_NUM_THREADS="1",
        EXTRA=EXTRA,
        STORES=str(tmp_path / "stores"),
    )
    for _ in range(2):
        done = sheet("nano_ensemble.sh", env=env)
        assert done.returncode == 0, done.stderr[-3000:]
    assert "nano_s7 is done" in done.stdout
    assert (tmp_path / "runs" / "nano_ensemble" / "test_ens_labeled.csv").exists()


def test_an_ensemble_of_different_networks(challenge, tmp_path):
    """Two networks, one seed, one epoch: mean and stack, calibrated,
    with the columns that one of them infers.
    """
    env = os.environ | dict(
        PYTHON=sys.executable,
        DATA=str(challenge),
        BLIND=str(challenge / "test_dataset"),
        RUNS=str(tmp_path / "runs"),
        OMP_NUM_THREADS="1",
        STORES=str(tmp_path / "stores"),
        EXTRA=EXTRA.replace("atto", "small") + " --physics_terms lens_equation",
    )
    done = sheet(
        "advanced_ensemble.sh",
        "--models",
        "enhanced_vit,pinn_lens",
        "--seeds",
        "7",
        "--calibrate=isotonic",
        env=env,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for combine in ("mean", "stack"):
        folder = tmp_path / "runs" / f"ens_{combine}"
        submission = pd.read_csv(folder / "submission.csv")
        assert len(submission) == 8 and (folder / "val_ens_objects.csv").exists()
        assert json.loads((folder / "calibration.json").read_text())["kind"] == "isotonic"
        lenses = submission["preds"] == 1
        assert (submission.loc[lenses, "Rein"] > 0).all() and (submission.loc[~lenses, "Rein"] == -99).all()
    weights = json.loads((tmp_path / "runs/ens_stack/weights.json").read_text())
    assert weights["members"] == ["enhanced_vit_s7", "pinn_lens_s7"] and sum(
        weights["weights"]
    ) == pytest.approx(1)
    assert not (tmp_path / "runs/ens_mean/weights.json").exists()


# An interpreter that writes down its arguments and leaves what each stage is judged by.
PRETENDER = """#!/bin/sh
echo "$@" >> CALLS
while [ $# -gt 1 ]; do
    [ "$1" = --save_dir ] && mkdir -p "$2" && touch "$2/results.json"
    [ "$1" = --output_dir ] && mkdir -p "$2" && case $2 in *pinn*test) touch "$2/parameters_test.csv" ;; esac
    shift
done
true
"""


@pytest.mark.parametrize("dialect", ["", "slurm", "pbspro", "torque"])
def test_each_network_has_each_seed_once(dialect, scheduler, tmp_path):
    pretender, runs = tmp_path / "pretender", tmp_path / "runs"
    pretender.write_text(PRETENDER.replace("CALLS", str(tmp_path / "calls")))
    pretender.chmod(0o755)
    env = (scheduler(dialect) if dialect else os.environ) | dict(
        PYTHON=str(pretender), DATA=str(tmp_path), RUNS=str(runs), STORES="/s", LINKS="1", GPUS="1"
    )
    flags = [
        "--models",
        "pinn_lens,nano",
        "--seeds",
        "42 101",
        *(["--scheduler", dialect] if dialect else []),
    ]
    done = sheet("advanced_ensemble.sh", *flags, env=env)
    assert done.returncode == 0 and f"{runs}/ens_stack/submission.csv" in done.stdout or not dialect, (
        done.stderr
    )
    members = [(name, seed) for name in ("pinn_lens", "nano") for seed in (42, 101)]
    calls = (tmp_path / "calls").read_text().splitlines()
    packed = [call for call in calls if call.endswith("--pack_only")]
    assert len(packed) == (2 if dialect else 0) and all(f"--data {tmp_path}" in call for call in packed)
    train = [call for call in calls if call.startswith("train.py") and call not in packed]
    assert train == [
        f"train.py --config run_sheets/{name}.yaml --data {tmp_path} --store_dir /s --seed {seed} --save_dir "
        f"{runs}/{name}_s{seed} --max_time 71:50:00"
        for name, seed in members
    ]
    assert sum(call.startswith("predict.py") for call in calls) == 8
    tables = " ".join(
        f"--{which} "
        + " ".join(f"{runs}/{name}_s{seed}/pred_{which}/pred_{which}.csv" for name, seed in members)
        for which in ("val", "test")
    )
    inferred = " ".join(f"{runs}/pinn_lens_s{seed}/pred_test/parameters_test.csv" for seed in (42, 101))
    assert calls[-2:] == [
        f"ensemble.py {tables} --calibrate temperature --test_parameters {inferred} --combine {combine} "
        f"--out_dir {runs}/ens_{combine}"
        for combine in ("mean", "stack")
    ]
    if not dialect:
        again = sheet("advanced_ensemble.sh", *flags, env=env)
        assert again.stdout.count("is done") == 4 and "train.py" not in "".join(
            (tmp_path / "calls").read_text().splitlines()[len(calls) :]
        )


# What a site puts around python: nothing, modules, conda (whose scripts use variables that are not set), a
# container.
AROUND = {
    "plain": {},
    "modules": dict(PREPARE="module load cuda"),
    "conda": dict(PREPARE='. "$FAKE_HOME/conda.sh" && conda activate starloop'),
    "apptainer": dict(LAUNCH="apptainer exec --nv starloop.sif"),
}
SITES = [
    (dialect, seeds, nodes)
    for dialect in ("slurm", "pbspro", "torque")
    for seeds in (1, 5)
    for nodes in (1, 2)
]


@pytest.mark.parametrize(
    "dialect, seeds, nodes, around",
    [(*site, [*AROUND][number % 5 % 4]) for number, site in enumerate(SITES)],
)
def test_the_jobs_of_a_site(dialect, seeds, nodes, around, scheduler, tmp_path):
    """Queues, accounts, GPUs and nodes of each job; what each of them runs, and that it runs."""
    env = scheduler(dialect)
    home, runs = Path(env["FAKE_HOME"]), tmp_path / "runs"
    calls = tmp_path / "calls"
    tools = dict(
        pretender=PRETENDER.replace("CALLS", str(calls)),
        module=f'#!/bin/sh\necho "module $@" >> {calls}\n',
        apptainer=f'#!/bin/sh\necho "apptainer $@" >> {calls}\nshift 3\nexec "$@"\n',
    )
    for name, content in tools.items():
        (home / name).write_text(content)
        (home / name).chmod(0o755)
    (home / "conda.sh").write_text('conda() { echo "conda $* $NOT_SET" >> ' + str(calls) + "; }\n")
    env |= dict(DATA=str(tmp_path), RUNS=str(runs), STORES="/s", LINKS="2", GPUS="4", CPUS="6")
    env |= dict(PYTHON=str(home / "pretender"), SEEDS=" ".join(map(str, range(seeds))), NODES=str(nodes))
    env |= dict(QUEUE="gpu", CPU_QUEUE="cpu", ACCOUNT="astro", SCHEDULER_FLAGS="--exclusive -x 1")
    env |= AROUND[around] | (dict(QOS="long") if dialect != "pbspro" else {})
    env |= dict(WALLTIME="1-00:30:00")
    done = sheet("submit.sh", dialect, env=env)
    logs = "".join(path.read_text() for path in sorted(home.glob("log_*")))
    assert done.returncode == 0 and not list(home.glob("failed_*")), done.stderr + logs[-2000:]

    jobs = [path.read_text() for path in sorted(home.glob("job_*"))]
    links = 1 if dialect == "slurm" else 2
    kinds = ["pack"] + ["train"] * links + ["predict", "ensemble"]
    assert len(jobs) == len(kinds)
    for job, kind in zip(jobs, kinds, strict=True):
        assert f"name={kind}" in job or f"-N {kind}" in job
        assert "--exclusive -x 1" in job and ("--account=astro" in job or "-A astro" in job)
        assert dialect == "pbspro" or "qos=long" in job
        assert ("gpu:4" in job or "gpus=4" in job) == (kind == "train")
        queue = "gpu" if kind == "train" else "cpu"
        assert f"--partition={queue}" in job or f"-q {queue}" in job
        # an array of one is none
        is_array = any(flag in job for flag in ("--array=0-4", "-J 0-4", "-t 0-4"))
        assert is_array == (seeds == 5 and kind in ("train", "predict"))
        assert seeds == 5 or not any(flag in job for flag in ("--array", " -J ", " -t ", "array:"))
        assert (kind == "pack") == ("after" not in job) and "24:30:00" in job or kind != "train"
        if dialect == "slurm":
            assert (f"--nodes={nodes}" in job) == (kind == "train")
            assert ("--kill-on-invalid-dep=yes" in job) == (kind != "pack")
            assert ("aftercorr" in job) == (kind == "predict" and seeds == 5)
        if dialect == "pbspro":
            assert f"select={nodes if kind == 'train' else 1}:ncpus=6" in job
            assert ("place=scatter" in job) == (nodes == 2 and kind == "train")
        if dialect == "torque":
            assert f"nodes={nodes if kind == 'train' else 1}:ppn=6" in job
    lines = calls.read_text().splitlines()
    trained = [line for line in lines if "train.py" in line and "pack_only" not in line]
    trained = [line for line in trained if not line.startswith("apptainer")]
    assert len(trained) == seeds * nodes and all("--max_time 24:20:00" in line for line in trained)
    assert all(f"--nproc_per_node 4{' --nnodes 2' * (nodes == 2)}" in line for line in trained)
    meetings = {line.partition("--rdzv_endpoint ")[2].partition(" ")[0] for line in trained}
    assert nodes == 1 or (len(meetings) == seeds and all(each.startswith("localhost:2") for each in meetings))
    assert len([line for line in lines if line.startswith("predict.py")]) == 2 * seeds
    seen = dict(plain="train.py", modules="module load", conda="conda activate", apptainer="apptainer exec")
    jobs_run = 2 + (1 + links) * seeds
    count = len([line for line in lines if line.startswith(seen[around])])
    assert around in ("plain", "apptainer") and count or count == jobs_run + 1  # and once to look


def test_two_nodes_train_one_network(scheduler, challenge, tmp_path):
    """Two torchrun agents that meet by c10d, here on one machine: the same weights as one process has."""
    env = scheduler("slurm") | dict(
        DATA=str(challenge), STORES=str(tmp_path / "stores"), CONFIG="run_sheets/atto.yaml"
    )
    env |= dict(
        EXTRA=EXTRA.replace("--epochs 1", "--epochs 1 --deterministic elastic"), GPUS="1", DIALECT="slurm"
    )
    of_job = dict(SLURM_JOB_ID="7", SLURM_JOB_NODELIST="nid[1-2]", SLURM_SUBMIT_DIR=str(ROOT))
    weights = []
    for nodes in ("2", "1"):
        runs = tmp_path / f"runs{nodes}"
        done = sheet("stage.sh", "train", "5", env=env | of_job | dict(NODES=nodes, RUNS=str(runs)))
        assert done.returncode == 0, done.stderr[-3000:]
        assert json.loads((runs / "atto_s5/env.json").read_text())["ranks"] == int(nodes)
        weights.append(checkpoint.load(runs / "atto_s5/best.pt")["model"])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


@pytest.mark.parametrize(
    "variables, words",
    [
        (dict(DATA="/nowhere"), "DATA '/nowhere' is not a folder"),
        (dict(BLIND="/nowhere"), "BLIND '/nowhere' does not exist"),
        (dict(PYTHON="/nowhere/python"), "'/nowhere/python' after 'true' does not import torch here"),
        (dict(PREPARE="module load nothing"), "after 'module load nothing' does not import torch"),
        (dict(CONFIG="nan.yaml"), "there is no recipe 'nan.yaml'"),
        (dict(ACCOUNT="biology"), "ACCOUNT 'biology': Slurm knows for you astro physics"),
        (dict(WALLTIME="72h"), "WALLTIME '72h': expected [days-]hours:minutes:seconds"),
        (dict(GPUS="four"), "GPUS 'four': expected a whole number"),
        (dict(NODES="0"), "NODES 0, LINKS 3, CPUS 8: expected 1 or more"),
        (dict(SEEDS=" "), "SEEDS ' ': expected at least one number"),
    ],
)
def test_what_would_fail_after_hours_in_a_queue(variables, words, scheduler, tmp_path):
    env = scheduler("slurm")
    home = Path(env["FAKE_HOME"])
    (home / "sacctmgr").write_text("#!/bin/sh\nprintf 'physics\\nastro\\n'\n")
    (home / "sacctmgr").chmod(0o755)
    env |= dict(DATA=str(tmp_path), RUNS=str(tmp_path / "runs"), ACCOUNT="astro")
    done = sheet("submit.sh", "slurm", env=env | variables)
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert not list(home.glob("job_*")) and not (tmp_path / "runs").exists()


def test_a_qos_under_pbs_pro_and_another_scheduler(scheduler, tmp_path):
    env = scheduler("pbspro") | dict(DATA=str(tmp_path), RUNS=str(tmp_path / "runs"))
    done = sheet("submit.sh", "openpbs", env=env | dict(QOS="long"))
    assert done.returncode == 2 and "QOS 'long': PBS Pro has none" in done.stderr
    done = sheet("submit.sh", "sge", env=env)
    assert done.returncode == 2 and "got 'sge', expected slurm, pbspro, openpbs or torque" in done.stderr


@pytest.mark.parametrize(
    "walltime, expected", [("72:00:00", "71:50:00"), ("2-01:00:00", "48:50:00"), ("00:30:00", "00:27:00")]
)
def test_the_time_of_a_run_follows_from_that_of_its_job(walltime, expected):
    line = "source run_sheets/site.sh; echo $MAX_TIME"
    command = ["env", "-u", "MAX_TIME", f"WALLTIME={walltime}", "bash", "-c", line]
    assert (
        subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        == expected
    )


@pytest.mark.parametrize(
    "flags, words",
    [
        (
            ["--models", "enhanced_vit,robust_resnt"],
            "--models: got 'robust_resnt', expected some of atto bayesian_ensemble enhanced_vit",
        ),
        (["--models", "light_curve_request"], "--models: got 'light_curve_request'"),
        (["--models", ","], "expected at least one of each"),
        (["--seeds"], "--seeds: expected a value after it"),
        (["--calibrate", "platt"], "expected none, temperature, vector or isotonic"),
        (["--network", "nano"], "got '--network', expected --models, --seeds, --calibrate or --scheduler"),
    ],
)
def test_what_an_ensemble_cannot_be_made_of(flags, words):
    done = sheet("advanced_ensemble.sh", *flags, env=os.environ)
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.fixture
def recorder(tmp_path):
    """An interpreter that only writes down the array index of its job and its arguments."""
    script = tmp_path / "recorder"
    script.write_text(
        f'#!/bin/sh\necho "${{SLURM_ARRAY_TASK_ID-}}${{PBS_ARRAY_INDEX-}}${{PBS_ARRAYID-}} $@" >> '
        f"{tmp_path}/calls\n"
    )
    script.chmod(0o755)
    return dict(PYTHON=str(script))


@pytest.mark.parametrize("dialect", ["slurm", "pbspro", "torque"])
@pytest.mark.parametrize("discard", ["", "1"])
def test_a_survey_is_a_chain_of_arrays_in_each_dialect(dialect, discard, scheduler, recorder, tmp_path):
    env = (
        scheduler(dialect)
        | recorder
        | dict(
            IMAGES="/data/m.txt",
            SURVEY=str(tmp_path / "S"),
            MODELS="a.pt b.pt",
            PARTS="3",
            DISCARD=discard,
            AT_ONCE="2",
            CPUS="4",
            SHARD_SIZE="50",
            GPUS="1",
            PLAN="--band_alias V=i",
        )
    )
    done = sheet("survey.sh", dialect, env=env)
    assert done.returncode == 0, done.stderr
    out = f"--out {tmp_path}/S"
    plan = [
        f" survey.py plan --images /data/m.txt {out} --shard_size 50 --model_path a.pt b.pt --band_alias V=i"
    ]
    pack = [f"{part} survey.py pack {out} --parts 3 --num_workers 4" for part in range(3)]
    flags = "--model_path a.pt b.pt --num_workers 4" + " --discard_pixels" * bool(discard)
    predict = [f"{part} survey.py predict {out} --parts 3 {flags} --tta" for part in range(3)]
    reduce = [f" survey.py reduce {out} --parts 3 --model_path a.pt b.pt --csv"]
    assert (tmp_path / "calls").read_text().splitlines() == plan + (
        pack if not discard else []
    ) + predict + reduce
    jobs = [path.read_text() for path in sorted(Path(env["FAKE_HOME"]).glob("job_*"))]
    any_of = dict(slurm="afterany:{}", pbspro="afterany:{}[].server", torque="afteranyarray:{}[].server")[
        dialect
    ]
    start, ok = (
        "=" if dialect != "slurm" else "--dependency=",
        "afterok:100" + (".server" if dialect != "slurm" else ""),
    )
    waits = [
        None,
        f"{start}{ok} ",
        f"{start}{ok},{any_of.format(101)} ",
        f"{start}{ok},{any_of.format(102)} ",
    ]
    if discard:
        waits = [None, f"{start}{ok} ", f"{start}{ok},{any_of.format(101)} "]
    for job, wait in zip(jobs, waits, strict=True):
        assert "afterok" not in job if wait is None else wait in job, (job, wait)
    gpu = dict(slurm="--gres=gpu:1", pbspro=":ngpus=1", torque=":gpus=1")[dialect]
    assert [gpu in job for job in jobs] == [False, *([False] if not discard else []), True, False]
    assert all(("0-2%2" in job) == (job in jobs[1:-1]) for job in jobs)


def test_a_survey_under_a_scheduler_ends_with_an_account(scheduler, trained, challenge, tmp_path):
    env = scheduler("slurm") | dict(
        IMAGES=str(challenge / "test_dataset"),
        SURVEY=str(tmp_path / "S"),
        MODELS=str(trained["stack"] / "best.pt"),
        PARTS="2",
        SHARD_SIZE="5",
        CPUS="1",
        GPUS="0",
        DISCARD="1",
        PREDICT="--device cpu",
    )
    done = sheet("survey.sh", "slurm", env=env)
    logs = "".join(path.read_text() for path in sorted(Path(env["FAKE_HOME"]).glob("log_*")))
    assert done.returncode == 0 and "16 files, each in one row, 16 with a probability" in logs, (
        done.stderr + logs[-3000:]
    )
    assert len(pd.read_csv(next((tmp_path / "S/predictions").glob("*/pred.csv.gz")))) == 16


def test_a_survey_without_a_plan_holds_back_the_rest(scheduler, tmp_path):
    env = scheduler("slurm") | dict(IMAGES=str(tmp_path / "nowhere"), SURVEY=str(tmp_path / "S"), PARTS="2")
    sheet("survey.sh", "slurm", env=env)
    home = Path(env["FAKE_HOME"])
    assert "does not exist" in (home / "log_100").read_text() and all(
        (home / f"failed_{job}").read_text() == "dependency" for job in (101, 102, 103)
    )
    for argument, message in (
        ("sge", "got 'sge', expected slurm, pbspro or torque"),
        ("torque", "got PARTS=1, expected at least 2"),
    ):
        done = sheet("survey.sh", argument, env=env | dict(PARTS="1"))
        assert done.returncode == 2 and message in done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "run_sheets").glob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_is_read(path):
    import train
    from utils import config

    recipe = yaml.safe_load(path.read_text())
    options = config.read_options(
        ["--config", str(path)], *train.classes_for(recipe.get("task", "lens"), "single")
    )
    flat = config.flat_options(*options)
    for name, value in recipe.items():
        assert flat[name] == value


LENS = {name for name, spec in MODELS.items() if spec.task == "lens"}
NETWORKS = sorted(LENS - {"convnextv2", "timm"})


@pytest.mark.parametrize("name", NETWORKS)
def test_each_network_has_a_recipe(name):
    """The network that the recipe builds for five bands answers images."""
    import train
    from tasks import lens
    from utils import config

    sheet = str(ROOT / "run_sheets" / f"{name}.yaml")
    options = config.read_options(["--config", sheet], *train.classes_for("lens", "single"))[-1]
    assert options.model == name and options.bands == list("grizy") and options.band_mode == "stack"
    network = lens.build_network(options, 5).eval()
    image, present = torch.randn(2, 5, 41, 41), torch.ones(2, 5, dtype=torch.bool)
    columns = len(options.metadata_columns)
    known = (
        (torch.zeros(2, columns), torch.zeros(2, columns, dtype=torch.bool)) if options.use_metadata else ()
    )
    with torch.no_grad():
        assert network(image, present, torch.zeros(2, dtype=torch.int64), *known)["logit"].isfinite().all()
    # these measure light, of which nothing may be cut off
    assert options.clip_q < 0 or name not in ("gat_lens", "pinn_lens")


def test_every_sheet_is_sound_shell():
    paths = sorted((ROOT / "run_sheets").glob("*.sh"))
    for path in paths:
        subprocess.run(["bash", "-n", str(path)], check=True)
    if shellcheck := shutil.which("shellcheck"):
        subprocess.run([shellcheck, "--severity=warning", "--shell=bash", *map(str, paths)], check=True)
