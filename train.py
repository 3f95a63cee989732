"""Train a network: one visible loop for every task and every mode.

    python train.py --data D --bands g r i z y --band_mode stack --save_dir runs/nano_s42 --seed 42
    torchrun --nproc_per_node 4 train.py --config run_sheets/nano.yaml --data D --save_dir runs/nano_s42

Running the same command again resumes the run, to the bit. Exit codes: utils/stop.py. From Python, in a
notebook or a search: `results = run(read_configs(["--data", "D", "--save_dir", "runs/nano_s42"]))`.
"""

import utils  # noqa: F401  first, before torch: it says how threads wait

import contextlib
import math
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial, reduce
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import yaml
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

import modes
from contract import (
    DTYPES,
    Batch,
    Columns,
    Gradient,
    InPrecision,
    Mode,
    Objective,
    Run,
    Task,
    concatenated,
    pieces,
)
from data.order import ShuffledEpochs, batches, each_once, place_each_once
from data.resident import resident
from model import MODELS
from modes import elastic
from tasks import TASKS
from utils import checkpoint, config, distributed, optimizers
from utils.config import Options, free, option
from utils.cuda_graphs import with_graphs
from utils.ema import Ema
from utils.finite import FiniteCheck, refuse_not_finite
from utils.files import write_json
from utils.log import Log, environment, resident_gib
from utils.mistake import Mistake
from utils.optimizers import OptimizerConfig
from utils.progress import Progress, best_epoch, monitored, without_improvement
from utils.run_folder import owned, set_aside
from utils.schedule import ScheduleConfig, learning_rate
from utils.seeding import seed_from, seed_step
from utils.stop import REASONS, Stop, exit_code, seconds_of
from utils.transfer import copied_ahead

# What a run writes, and --restart deletes; nothing else in the directory is touched.
WRITTEN = (
    "last.pt*",
    "previous.pt",
    "best.pt*",
    "config.yaml",
    "env.json",
    "results.json",
    "training_log.csv",
    "train.log",
    "split.csv",
    "split.parquet",
    "duplicates.csv",
    "events.out.tfevents*",
)


@dataclass(frozen=True)
class TrainConfig(Options):
    # the scientific question: a name in tasks/; with --model it need not be given
    task: str = "lens"
    mode: str = "single"  # how a batch becomes a gradient: single, or a name in modes/
    save_dir: str = free("runs/run")  # the run directory; the same command on it resumes
    epochs: int = option(20, least=1)  # passes over the training split
    batch_size: int = option(128, least=1)  # examples a step, over all ranks
    # pieces that each rank's share of a batch is cut into, to save memory
    accumulate: int = option(1, least=1)
    clip_norm: float = option(1.0, least=0)  # largest norm of the whole gradient; 0 = off
    # of the averaged weights, which are judged and kept; 0 = the weights themselves
    ema_decay: float = option(0.999, least=0, below=1)
    # auto: fp32 on a CPU, bf16 or else fp16 on a GPU
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    # torch.compile the network; on a GPU with CUDA graphs, where they are faster on a batch of the run
    compile: bool = False
    seed: int = 42  # of weights, order, augmentation; never of the split
    monitor: str = ""  # validation figure that chooses best.pt; empty: the task's own
    patience: int = option(10, least=0)  # epochs without improvement before the run ends; 0 = never
    min_delta: float = option(0.0, least=0)  # an improvement smaller than this is none
    # same bits: run: every time, at some cost on a GPU; elastic: on any number of ranks
    deterministic: Literal["none", "run", "elastic"] = "run"
    # elastic: parts that a batch is cut into; the number of ranks must divide it
    lanes: int = option(8, least=1)
    # training and validation examples on the device: auto: on a GPU that has room
    resident: Literal["auto", "yes", "no"] = free("auto")
    device: str = free("auto")  # auto, cpu, cuda, cuda:N, or mps (Apple)
    num_workers: int = free(0, least=0)  # processes that read data, besides this one
    log_every: int = free(200, least=1)  # steps between two logged lines
    save_every: int = free(0, least=0)  # steps between two checkpoints; 0 = one an epoch
    max_time: str = free("")  # stop with a checkpoint after [days-]hours:minutes:seconds, or minutes
    # read the data, pack them into --store_dir and end: a job without a GPU, before the runs that share them
    pack_only: bool = free(False)
    restart: bool = free(False)  # begin anew in save_dir, deleting the files of the run that is there

    def __post_init__(self):
        super().__post_init__()
        seconds_of(self.max_time or "0")


class Configs(NamedTuple):
    """Everything that a run follows from."""

    options: TrainConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    task: Any = None  # of the class that the task names
    mode: Any = None  # of the class that the mode names, if it has options

    @property
    def flat(self) -> dict[str, Any]:
        return config.flat_options(*(part for part in self if part is not None))


def run(
    configs: Configs, begin_from: Path | str | None = None, stop: Stop | None = None, task: Task | None = None
) -> dict[str, Any]:
    """Train to the end, or until `stop` asks for one; under torchrun within utils.distributed.session.

    begin_from: last.pt or best.pt of another run, whose weights (and, of last.pt, moments)
        are taken over at step 0.
    stop: what may end the run early with a checkpoint; by default --max_time alone.
        No signal is touched here.
    task: posed already, instead of what the task of the options builds.
    Returns what results.json holds, and `stopped`: 0, or the number of the reason in utils.stop.REASONS.
    Raises Mistake for what a person can mend, FloatingPointError for a loss that diverged.
    """
    options = as_on(configs.options)
    configs = configs._replace(options=options)
    schedule = configs.schedule
    optimizers.refuse_conflicts(configs.optimizer, schedule.scheduler, options.ema_decay)
    stop = stop or Stop(options.max_time)
    run_dir = Path(options.save_dir)
    device, warning = distributed.device_for(options.device)
    if warning:
        print(f"train.py: {warning}", file=sys.stderr)
    deterministic(options, device)

    # The folder is this run's alone; whatever ends the run, what was begun is written.
    with (
        owned(run_dir, "save_dir"),
        set_aside(run_dir, WRITTEN, options.restart),
        checkpoint.Writer() as writer,
    ):
        # What another run in this directory would forbid is said before a file of the data is read.
        distributed.barrier()
        saved = checkpoint.load_newest(run_dir, lambda text: print(f"train.py: {text}", file=sys.stderr))
        classes = [type(part) for part in configs if part is not None]
        if saved:
            config.refuse_changes(saved["record"], dict(options=configs.flat, data={}), *classes)
        begun_from = checkpoint.load(begin_from) if begin_from else None

        # The task, as the mode poses it, and the record from which predict rebuilds the network.
        run_dir.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(seed_from(options.seed, "weights"))
        mode = config.pick("mode", options.mode, ALL_MODES)
        task = task or TASKS[options.task].build(configs.task, run_dir, options.num_workers)
        task = mode.pose(configs.mode, task)
        record = dict(options=configs.flat, data=dict(task.record or {}))
        if options.deterministic == "elastic" and device.type == "cpu":
            record["data"]["threads"] = torch.get_num_threads()  # bits depend on their number too
        if begun_from:
            refuse_other_channels(begun_from["record"], record, begin_from)
            record["data"]["begun_from"] = checkpoint.digest(
                begun_from.get("model") or begun_from["state"]["model"]
            )
        if saved:
            config.refuse_changes(saved["record"], record, *classes)
            if saved["state"]["progress"]["history"]:  # what the run will end with, seen now
                read_best(run_dir, record, classes)
        if not len(task.data["val"]):
            raise Mistake("the validation split is empty: give more data or a larger --val_frac")
        monitor, sign = monitored(options.monitor, task.monitors)
        watched, watched_sign = monitored(schedule.plateau_monitor or monitor, task.monitors)
        if distributed.rank() == 0:
            if not saved:
                (run_dir / "config.yaml").write_text(yaml.safe_dump(record["options"], sort_keys=False))
            write_json(run_dir / "env.json", environment(dict(data=record["data"], device=str(device))))

        # The network stays the bare module, and is never re-bound; the objective is network and loss as one.
        model = task.model.to(device).train()
        objective = Objective(model, task.loss, DTYPES[options.precision]).to(device)
        ema = Ema(model, options.ema_decay, objective.loss_module)
        if options.compile:
            model.compile()

        # Batches: the data's own order where they have one (shards), else shuffled epochs.
        lanes = options.lanes if options.deterministic == "elastic" else distributed.world_size()
        train_data = task.data["train"]
        shuffled = train_data.epochs(options.batch_size, options.seed, lanes)
        shuffled = shuffled or ShuffledEpochs(len(train_data), options.batch_size, options.seed, lanes)
        epoch_steps = shuffled.steps_per_epoch
        total = epoch_steps * options.epochs

        # A mode makes the gradient, the optimiser moves what has one.
        scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "fp16")  # a no-op unless fp16
        given = Run(
            objective,
            train_data,
            scaler,
            batch_size=options.batch_size,
            accumulate=options.accumulate,
            steps=total,
            epochs=options.epochs,
            seed=options.seed,
        )
        gradient = elastic_or(mode, options).build(configs.mode, given)
        named = list(named_weights(objective))
        optimizer = optimizers.build_optimizer(
            configs.optimizer, named, schedule.lr, options.batch_size, task.lr_scale
        )
        progress = Progress()

        # Everything with memory is in this dict; all else is a pure function of (configs, step, history).
        state = dict(
            model=model,
            loss=objective.loss_module,
            ema=ema.model,
            ema_loss=ema.loss,
            optimizer=optimizer,
            scaler=scaler,
            gradient=gradient,
            progress=progress,
        )
        if saved:
            checkpoint.restore(state, saved["state"], f"{run_dir}/last.pt")
        elif begun_from:
            checkpoint.begin(state, begun_from, str(begin_from))
        order = gradient.order or shuffled
        log = Log(run_dir, purge_step=progress.step)
        begins = f"resumed at step {progress.step}" if saved else f"begun in {run_dir}"
        parameters = sum(p.numel() for p in objective.parameters())
        log.info(
            f"{len(train_data)} training examples, {epoch_steps} steps an epoch, {parameters:,} parameters, "
            f"{options.precision} on {device}, {begins}"
        )
        ranks = len(saved["state"]["progress"]["ranks"]) if saved else distributed.world_size()
        if ranks != distributed.world_size() and options.deterministic != "elastic":
            log.warning(
                f"resumed on {distributed.world_size()} ranks instead of {ranks}: the last bits may differ"
            )

        # What lies on the device whole is read there; the rest is copied beside the computing.
        held = {split: resident(task.data[split], options.resident, device) for split in ("train", "val")}
        task = replace(task, data={**task.data, **held})
        steps = range(progress.step, total)
        alone = distributed.world_size() == 1  # of several ranks none may leave while the others go on
        stream = batches(
            task.data["train"],
            order,
            steps,
            options.num_workers,
            device,
            lanes,
            stops=lambda: stop.asked if alone else 0,
        )
        stream = copied_ahead(stream, device)
        # CUDA graphs would overwrite a gradient that waits for another piece.
        if options.compile and options.accumulate == 1:
            seed = partial(seed_step, options.seed, distributed.rank())
            stream = with_graphs(model, stream, gradient, seed, progress.step, log.info)

        weights = optimizer.weights  # in their order the norm of the gradient is summed
        finite = FiniteCheck(train_data.names, scaler.is_enabled())
        one = torch.ones((), device=device)
        patience = options.patience or math.inf
        since = time.perf_counter()
        waited, seen = 0.0, 0
        if distributed.rank() == 0:
            writer.expect([*model.state_dict().values()] * 3 + weights * 2)  # model, EMA, best; moments
        reason = 0
        while progress.step < total and not reason:
            if without_improvement(progress.history, monitor, sign, options.min_delta) >= patience:
                break

            # A batch; all that is random in its step follows from (seed, rank, step).
            step = progress.step
            began = time.perf_counter()
            share = next(stream, None)
            if share is None:  # told to stop while it waited for data
                reason = stop.asked
                break
            batch, size, ids = share
            waited += time.perf_counter() - began
            seen += size
            seed_step(options.seed, distributed.rank(), step)

            # The gradient: the only line that differs between modes.
            optimizer.zero_grad()
            means = gradient(batch, size, step)
            scaler.unscale_(optimizer)
            norm = clip_grad_norm_(weights, options.clip_norm or math.inf)
            scale = scaler.scale(one)

            # The host never waits for this step: what is not finite stops on the device, and is known here a
            # step later. A step that was skipped moves neither the schedule nor the EMA.
            moved = finite.read()
            optimizer.settle(moved)
            progress.updates += moved
            finite.ask(step, norm, scale, means, ids)

            # The update.
            scores = [watched_sign * row[f"val_{watched}"] for row in progress.history]
            lr = learning_rate(schedule, progress.updates, epoch_steps, total, scores)
            optimizer.set_rate(lr)
            optimizer.skips = skips = (norm - norm).ne_(0)  # 1 where it is not finite
            scaler.step(optimizer)
            scaler.update()
            ema.update(progress.updates, 1 - skips if scaler.is_enabled() else None)
            progress.step += 1
            progress.add(means, size, ids)

            # What is due after this step.
            log.progress(progress.step, total, f"epoch {step // epoch_steps + 1}")
            writer.check()  # a save that failed ends the run here
            reason = distributed.largest(stop.asked)
            epoch_over = progress.step % epoch_steps == 0
            save_due = options.save_every and progress.step % options.save_every == 0
            saves = epoch_over or save_due
            logs = progress.step % options.log_every == 0 or progress.step == total
            if logs or saves:
                moved = finite.read()
                optimizer.settle(moved)
                progress.updates += moved

            if logs:
                spent = time.perf_counter() - since
                figures = distributed.sums({name: mean.item() for name, mean in means.items()})
                figures |= dict(lr=lr) | optimizer.rates()
                figures |= dict(grad_norm=norm.item(), scale=scale.item())
                figures |= dict(ema_decay=ema.decay_at(progress.updates))
                figures |= dict(examples_per_s=seen / spent, data_wait_share=waited / spent)
                log.steps(progress.step, total, figures | dict(memory_gib=memory_gib(device)))
                since = time.perf_counter()
                waited, seen = 0.0, 0

            if epoch_over:
                epoch = progress.step // epoch_steps
                distributed.refuse_different(named, f"epoch {epoch}, mode {options.mode}")
                if optimizer.averages_itself:
                    with optimizer.averaged():
                        ema.update(progress.updates)
                columns = measure(task, ema.model, "val", options, device, lanes)
                averages, saw = progress.close_epoch()
                if order is shuffled:  # what a mode draws by an order of its own is its own business
                    log.info(saw.checked(len(train_data), epoch, train_data.times(epoch - 1)))
                row = dict(epoch=epoch)
                row |= {f"train_{name}": mean for name, mean in averages.items()}
                row |= {f"val_{name}": value for name, value in task.summarise(columns).items()}
                row |= dict(lr=lr) | gradient.report()
                progress.history.append(row)
                log.epochs(progress.history)
                best = best_epoch(progress.history, monitor, sign, options.min_delta)
                if best == epoch and distributed.rank() == 0:
                    averaged = dict(model=ema.model.state_dict())
                    if ema.loss.state_dict():
                        averaged |= dict(loss=ema.loss.state_dict())
                    writer.save(run_dir / "best.pt", dict(record=record, epoch=epoch, metrics=row) | averaged)
                if task.illustrate and log.writer:
                    task.illustrate(log.writer, ema.model, columns, epoch)

            if saves:
                tree = dict(record=record, state=checkpoint.collect(state))  # on all ranks: sums are gathered
                if distributed.rank() == 0:
                    writer.save(run_dir / "last.pt", tree, previous=run_dir / "previous.pt")

        if reason and progress.step < total:
            moved = finite.read()
            optimizer.settle(moved)
            progress.updates += moved
            tree = dict(record=record, state=checkpoint.collect(state))
            if distributed.rank() == 0:
                writer.save(run_dir / "last.pt", tree, previous=run_dir / "previous.pt")
            writer.wait()
            log.warning(
                f"stopped by {REASONS[reason]} at step {progress.step}; run the same command again to go on"
            )
            log.close()
            return dict(stopped=reason, step=progress.step, epochs=len(progress.history))

        writer.wait()
        distributed.barrier()
        best = read_best(run_dir, record, classes)
        results = judge_best(task, ema.model, best, options, device, lanes, progress.history)
        results |= dict(monitor=monitor, device=str(device))
        log.end(record["options"], results, progress.history)
        log.close()
        if distributed.rank() == 0:
            print(f"{run_dir}: {shown(results, task.monitors)}", flush=True)
        return results | dict(stopped=0)


class Backprop(Gradient):
    """The ordinary gradient: back-propagate the mean loss of the batch, one piece at a time."""

    def __init__(self, options: None, run: Run):
        self.run = run
        self.ranks = distributed.world_size()
        self.objective = DistributedDataParallel(run.objective) if self.ranks > 1 else run.objective

    def __call__(self, batch: Batch, size: int, step: int) -> dict[str, Tensor]:
        parts = pieces(batch, self.run.accumulate)
        sums = []
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            with contextlib.nullcontext() if last or self.ranks == 1 else self.objective.no_sync():
                loss = self.objective(part, step)
                value = loss.value
                of_mean = torch.full_like(value, self.ranks / size)  # DDP averages over ranks
                self.run.scaler.scale(value).backward(of_mean)
            columns = {"loss": value.detach(), **loss.terms}
            sums.append(torch.stack([*columns.values()]).sum(1))
        means = reduce(torch.add, sums) / size
        return dict(zip(columns, means.unbind()))


ALL_MODES = {"single": Mode(Backprop), **modes.MODES}


def elastic_or(mode: Mode, options: TrainConfig) -> Mode:
    """The mode, or the one that `--deterministic elastic` builds in place of the ordinary gradient."""
    if options.deterministic != "elastic":
        return mode
    if options.mode != "single":
        raise Mistake(
            f"--deterministic: got 'elastic' with --mode {options.mode}, expected the single mode; give run "
            "or none"
        )
    return Mode(lambda _, run: elastic.build(run, options.lanes))


def named_weights(objective: Objective) -> list[tuple[str, nn.Parameter]]:
    """What is trained: the network's weights by their own names, then the loss' as loss.<name>."""
    network = list(objective.network.model.named_parameters())
    loss = [(f"loss.{name}", weight) for name, weight in objective.loss_module.named_parameters()]
    known = {id(weight) for _, weight in network}
    both = network + [(name, weight) for name, weight in loss if id(weight) not in known]
    return [(name, weight) for name, weight in both if weight.requires_grad]


@torch.no_grad()
def measure(
    task: Task, model: nn.Module, split: str, options: TrainConfig, device: torch.device, lanes: int
) -> Columns:
    """The scores of every example of a split, in its order, gathered from all ranks."""
    network = InPrecision(distributed.as_on_rank_0(model), DTYPES[options.precision])
    rows = []
    for batch in each_once(task.data[split], options.batch_size, options.num_workers, device, lanes):
        rows.append(task.measure(network, batch))  # left on the device, which nothing here waits for
    mine = {name: column.cpu() for name, column in concatenated(rows).items()}
    parts = [part for part in distributed.gather(mine) if part]
    turn = place_each_once(len(task.data[split]), lanes)
    columns = {name: column[turn] for name, column in concatenated(parts).items()}
    refuse_not_finite(columns, task.data[split].names, f"the {split} split")
    return columns


def judge_best(
    task: Task,
    model: nn.Module,
    best: dict[str, Any],
    options: TrainConfig,
    device: torch.device,
    lanes: int,
    history: list[dict[str, float]],
) -> dict[str, Any]:
    """Validation and test figures of best.pt, which gets the calibration that validation gives."""
    model.load_state_dict(best["model"])
    judged = [split for split in ("val", "test") if len(task.data[split])]
    columns = {split: measure(task, model, split, options, device, lanes) for split in judged}
    calibration = dict(calibration=task.calibrate(columns["val"])) if task.calibrate else {}
    if calibration and distributed.rank() == 0:
        checkpoint.save(Path(options.save_dir) / "best.pt", best | calibration)
    report = task.report or task.summarise
    figures = {split: report(rows) for split, rows in columns.items()}
    return dict(best_epoch=best["epoch"], epochs=len(history), last=history[-1]) | calibration | figures


def read_best(run_dir: Path, record: dict[str, Any], classes: list[type]) -> dict[str, Any]:
    """best.pt. Raises Mistake where it is gone, damaged, or of another run."""
    path = run_dir / "best.pt"
    try:
        best = checkpoint.load(path)
        checkpoint.check_layout(best, path)
    except (FileNotFoundError, checkpoint.Damaged) as error:
        raise Mistake(f"{error}; the epoch that it held is lost: begin anew with --restart") from error
    config.refuse_changes(best["record"], record, *classes)
    return best


def as_on(options: TrainConfig) -> TrainConfig:
    """The options with the precision that `auto` is on this device."""
    device, _ = distributed.device_for(options.device)
    refuse_half_on(device, options.precision)
    if options.precision != "auto":
        return options
    on_gpu = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp16"
    return replace(options, precision=on_gpu if device.type == "cuda" else "fp32")


def refuse_half_on(device: torch.device, precision: str) -> None:
    """Raises Mistake for half precision on an Apple GPU, where neither autocast nor a scaler is relied on."""
    if device.type == "mps" and precision not in ("auto", "fp32"):
        raise Mistake(f"--precision {precision}: expected fp32 (or auto, which is fp32) with --device mps")


def deterministic(options: TrainConfig, device: torch.device) -> None:
    """Have torch give the same bits every time, as far as `--deterministic` asks."""
    if options.deterministic != "none" and device.type == "cuda":
        # as cuBLAS asks for, before its first use
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    if options.deterministic == "elastic" and device.type == "cpu":
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def refuse_other_channels(before: dict[str, Any], now: dict[str, Any], path: Path | str) -> None:
    """Raises Mistake where weights of a channel would go to that of another band;
    of single bands (--band_mode) one channel is for all.
    """
    theirs, ours = before["data"].get("bands"), now["data"].get("bands")
    if theirs != ours and theirs and ours and now["options"].get("band_mode") != "single":
        raise Mistake(
            f"{path} was trained on the bands {' '.join(theirs)}, and this run has {' '.join(ours)}: begin "
            "with the same in the same order; or, of lenses, give best.pt as --initial_checkpoint: there "
            "weights follow the names"
        )


def memory_gib(device: torch.device) -> float:
    """The most that was in use on a GPU; on a CPU what this process has now."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else resident_gib()


def classes_for(task: str, mode: str) -> list[type]:
    """The classes whose fields are the flags of a run."""
    its_own = config.pick("mode", mode, ALL_MODES).config
    task_config = config.pick("task", task, TASKS).Config
    return [TrainConfig, OptimizerConfig, ScheduleConfig, task_config] + ([its_own] if its_own else [])


def read_configs(argv: list[str]) -> Configs:
    """The configuration that a command line gives; --model alone is enough to find the task."""
    model = MODELS.get(config.peek(argv, "model", ""))
    task = config.peek(argv, "task", model.task if model else TrainConfig.task)
    if model:
        argv = ["--task", task, *argv]
    classes = classes_for(task, config.peek(argv, "mode", TrainConfig.mode))
    return Configs(*config.read_options(argv, *classes))


def main(argv: list[str]) -> None:
    configs = read_configs(argv)
    if configs.options.pack_only:
        pack(configs)
        return
    device, _ = distributed.device_for(configs.options.device)
    stop = Stop(configs.options.max_time).on_signals()
    with distributed.session(device):
        results = run(configs, stop=stop)
    if results["stopped"]:
        sys.exit(exit_code(results["stopped"]))


def pack(configs: Configs) -> None:
    """Read and pack the data of a run; what is said of them, and their split, is kept in its folder."""
    run_dir = Path(configs.options.save_dir)
    with owned(run_dir, "save_dir"):
        run_dir.mkdir(parents=True, exist_ok=True)
        TASKS[configs.options.task].build(configs.task, run_dir, configs.options.num_workers)


def shown(results: dict[str, Any], monitors: Iterable[str]) -> str:
    """The figures that may choose an epoch, of validation and test."""
    figures = []
    for split in ("val", "test"):
        for name in monitors if split in results else ():
            value = results[split][name]
            figures.append(f"{split}_{name} " + (f"{value:.4f}" if math.isfinite(value) else "not defined"))
    return "  ".join(figures)


def console() -> None:
    """The command starloop-train of an installed Starloop (pyproject.toml)."""
    config.run_script(main)


if __name__ == "__main__":
    console()
