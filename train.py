"""Train a network: one visible loop for every task and every mode.

    python train.py --data D --bands g r i z y --band_mode stack --save_dir runs/nano_s42 --seed 42
    torchrun --nproc_per_node 4 train.py --config run_sheets/nano.yaml --data D --save_dir runs/nano_s42
    --seed 42

Running the same command again resumes the run, to the bit. Exit codes: utils/stop.py.
"""

import utils  # noqa: F401  first, before torch: it says how threads wait

import contextlib
import math
import os
import sys
import time
from dataclasses import dataclass, replace
from functools import partial, reduce
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from contract import DTYPES, Batch, Columns, Gradient, InPrecision, Objective, Run, Task, pieces
from data.order import ShuffledEpochs, batches, in_turn, place_in_turn
from data.resident import resident
from modes import MODES, elastic
from tasks import TASKS
from utils import checkpoint, config, distributed
from utils.config import Options, free, option
from utils.cuda_graphs import with_graphs
from utils.ema import Ema
from utils.finite import Verdicts
from utils.json_file import write_json
from utils.log import Log, environment, resident_gib
from utils.mistake import Mistake
from utils.optimizers import parameter_groups
from utils.progress import Progress, best_epoch, monitored, without_improvement
from utils.schedule import ScheduleConfig, learning_rate
from utils.seeding import seed_from, seed_step
from utils.stop import REASONS, Stop, exit_code, seconds_of
from utils.transfer import beside

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
    task: str = "lens"  # the scientific question: a name in tasks/
    mode: str = "single"  # how a batch becomes a gradient: single, or a name in modes/
    save_dir: str = free("runs/run")  # the run directory; the same command on it resumes
    epochs: int = option(20, least=1)  # passes over the training split
    batch_size: int = option(128, least=1)  # examples a step, over all ranks
    # pieces that each rank's share of a batch is cut into, to save memory
    accumulate: int = option(1, least=1)
    # of matrices and convolutions; biases, norms and scales do not decay
    weight_decay: float = option(0.05, least=0)
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
    device: str = free("auto")  # auto, cpu, cuda or cuda:N
    num_workers: int = free(0, least=0)  # processes that read data, besides this one
    log_every: int = free(200, least=1)  # steps between two logged lines
    save_every: int = free(0, least=0)  # steps between two checkpoints; 0 = one an epoch
    max_time: str = free("")  # stop with a checkpoint after [days-]hours:minutes:seconds, or minutes
    restart: bool = free(False)  # begin anew in save_dir, deleting the files of the run that is there

    def __post_init__(self):
        super().__post_init__()
        seconds_of(self.max_time or "0")


def train(
    task: Task,
    build_mode,
    options: TrainConfig,
    schedule: ScheduleConfig,
    run_dir: Path,
    record: dict[str, Any],
    device: torch.device,
) -> tuple[dict[str, Any] | None, int]:
    """Run the loop to its end; return the results and 0, or None and the reason of an early stop
    (utils/stop.py).
    """
    stop = Stop(options.max_time)
    if not len(task.data["val"]):
        raise Mistake("the validation split is empty: give more data or a larger --val_frac")
    monitor, sign = monitored(options.monitor, task.monitors)
    watched, watched_sign = monitored(schedule.plateau_monitor or monitor, task.monitors)
    model = task.model.to(device).train()  # always the bare module, never re-bound
    ema = Ema(model, options.ema_decay)
    if options.compile:
        model.compile()
    objective = Objective(model, task.loss, DTYPES[options.precision])
    scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "fp16")  # a no-op unless fp16
    lanes = options.lanes if options.deterministic == "elastic" else distributed.world_size()
    # shards have an order of their own
    drawn = getattr(task.data["train"], "epochs", partial(ShuffledEpochs, len(task.data["train"])))
    shuffled = drawn(options.batch_size, options.seed, lanes)
    epoch_steps, total = shuffled.steps_per_epoch, shuffled.steps_per_epoch * options.epochs
    run = Run(
        model,
        objective,
        task.data["train"],
        scaler,
        options.batch_size,
        options.accumulate,
        total,
        options.epochs,
        options.seed,
    )
    gradient = build_mode(run) if build_mode else backprop(run)
    order, progress = getattr(gradient, "order", shuffled), Progress()
    groups = parameter_groups(model, options.weight_decay)
    optimizer, weights = (
        torch.optim.AdamW(groups, lr=schedule.lr, fused=True),
        [p for group in groups for p in group["params"]],
    )

    # Everything with memory is in this dict; all else below is a pure function of (options, step, history).
    state = dict(
        model=model, ema=ema, optimizer=optimizer, scaler=scaler, gradient=gradient, progress=progress
    )
    if saved := checkpoint.load_newest(run_dir, lambda text: print(f"train.py: {text}", file=sys.stderr)):
        config.refuse_changes(saved["record"], record, *classes_for(options.task, options.mode))
        checkpoint.restore(state, saved["state"], f"{run_dir}/last.pt")
    log = Log(run_dir, purge_step=progress.step)
    log.info(
        f"{len(task.data['train'])} training examples, {epoch_steps} steps an epoch, "
        f"{sum(p.numel() for p in model.parameters()):,} parameters, "
        f"{options.precision} on {device}, "
        + (f"resumed at step {progress.step}" if saved else f"begun in {run_dir}")
    )
    if (
        saved
        and (ranks := len(saved["state"]["progress"]["ranks"])) != distributed.world_size()
        and options.deterministic != "elastic"
    ):
        log.warning(
            f"resumed on {distributed.world_size()} ranks instead of {ranks}: the last bits may differ"
        )

    task = replace(
        task,
        data={
            **task.data,
            **{name: resident(task.data[name], options.resident, device) for name in ("train", "val")},
        },
    )
    stream = beside(
        batches(task.data["train"], order, range(progress.step, total), options.num_workers, device, lanes),
        device,
    )
    # graphs would overwrite a gradient that waits for another piece
    if options.compile and options.accumulate == 1:
        stream = with_graphs(
            model,
            stream,
            gradient,
            partial(seed_step, options.seed, distributed.rank()),
            progress.step,
            log.info,
        )
    verdict, one = Verdicts(task.data["train"].names, scaler.is_enabled()), torch.ones((), device=device)
    since, waited, seen = time.perf_counter(), 0.0, 0
    with checkpoint.Writer() as writer:  # whatever ends the loop, what was begun is written
        # model, EMA, best; moments
        writer.expect([*model.state_dict().values()] * 3 + weights * 2 if distributed.rank() == 0 else [])
        while progress.step < total and without_improvement(
            progress.history, monitor, sign, options.min_delta
        ) < (options.patience or math.inf):
            step, began = progress.step, time.perf_counter()
            batch, size, ids = next(stream)
            waited, seen = waited + time.perf_counter() - began, seen + size
            seed_step(options.seed, distributed.rank(), step)

            optimizer.zero_grad(set_to_none=True)
            means = gradient(batch, size, step)  # the only line that differs between modes
            scaler.unscale_(optimizer)
            norm, scale = clip_grad_norm_(weights, options.clip_norm or math.inf), scaler.scale(one)

            # The host never waits for this step: what is not finite stops on the device,
            # and is known here a step later.
            # of the step before; a skipped step moves neither the schedule nor the EMA
            progress.updates += verdict.read()
            verdict.ask(step, norm, scale, means, ids)
            lr = learning_rate(
                schedule,
                progress.updates,
                epoch_steps,
                total,
                [watched_sign * row[f"val_{watched}"] for row in progress.history],
            )
            for group in optimizer.param_groups:
                group["lr"] = lr
            # 1 where it is not finite: the fused kernel then moves nothing
            optimizer.found_inf = skips = (norm - norm).ne_(0)
            scaler.step(optimizer)
            scaler.update()
            ema.update(progress.updates, 1 - skips if scaler.is_enabled() else None)
            progress.step += 1
            progress.add(means, size, ids)

            log.progress(progress.step, total, f"epoch {step // epoch_steps + 1}")
            writer.check()  # a save that failed ends the run here
            epoch_over, reason = progress.step % epoch_steps == 0, distributed.largest(stop.asked)
            saves = epoch_over or reason or (options.save_every and progress.step % options.save_every == 0)
            logs = progress.step % options.log_every == 0 or progress.step == total
            progress.updates += verdict.read() if logs or saves else 0
            if logs:
                spent = time.perf_counter() - since
                shown = distributed.sums({name: mean.item() for name, mean in means.items()})
                memory = (
                    torch.cuda.max_memory_allocated(device) / 2**30
                    if device.type == "cuda"
                    else resident_gib()
                )
                log.steps(
                    progress.step,
                    total,
                    shown
                    | dict(
                        lr=lr,
                        grad_norm=norm.item(),
                        scale=scale.item(),
                        ema_decay=ema.decay_at(progress.updates),
                        examples_per_s=seen / spent,
                        data_wait_share=waited / spent,
                        memory_gib=memory,
                    ),
                )
                since, waited, seen = time.perf_counter(), 0.0, 0
            if epoch_over:
                columns = measure(task, ema.model, "val", options, device, lanes)
                (averages, saw), epoch = progress.close_epoch(), progress.step // epoch_steps
                if order is shuffled:  # what a mode draws by an order of its own is its own business
                    log.info(saw.checked(len(task.data["train"]), epoch))
                row = (
                    dict(epoch=epoch)
                    | {f"train_{name}": mean for name, mean in averages.items()}
                    | {f"val_{name}": value for name, value in task.summarise(columns).items()}
                    | dict(lr=lr)
                    | (gradient.report() if hasattr(gradient, "report") else {})
                )
                progress.history.append(row)
                log.epochs(progress.history)
                if (
                    best_epoch(progress.history, monitor, sign, options.min_delta) == row["epoch"]
                    and distributed.rank() == 0
                ):
                    writer.save(
                        run_dir / "best.pt",
                        dict(record=record, epoch=row["epoch"], metrics=row, model=ema.model.state_dict()),
                    )
                if task.illustrate and log.writer:
                    task.illustrate(log.writer, ema.model, columns, row["epoch"])
            if saves:
                tree = dict(record=record, state=checkpoint.collect(state))  # on all ranks: sums are gathered
                if distributed.rank() == 0:
                    writer.save(run_dir / "last.pt", tree, previous=run_dir / "previous.pt")
            if reason and progress.step < total:
                writer.wait()
                log.warning(
                    f"stopped by {REASONS[reason]} at step {progress.step}; run the same command again to "
                    "go on"
                )
                log.close()
                return None, reason

    results = judge_best(task, ema.model, run_dir, options, device, lanes, progress.history) | dict(
        monitor=monitor, device=str(device)
    )
    log.end(record["options"], results, progress.history)
    log.close()
    return results, 0


def backprop(run: Run) -> Gradient:
    """The ordinary gradient: back-propagate the mean loss of the batch, one piece at a time."""
    ranks = distributed.world_size()
    ddp = DistributedDataParallel(run.objective) if ranks > 1 else run.objective

    def gradient(batch: Batch, size: int, step: int) -> dict[str, Tensor]:
        parts, sums = pieces(batch, run.accumulate), []
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            with contextlib.nullcontext() if last or ranks == 1 else ddp.no_sync():
                value, terms = ddp(part, step)
                # of the mean; DDP averages over ranks
                run.scaler.scale(value).backward(torch.full_like(value, ranks / size))
            columns = {"loss": value.detach(), **terms}
            sums.append(torch.stack([*columns.values()]).sum(1))
        return dict(zip(columns, (reduce(torch.add, sums) / size).unbind()))

    return gradient


@torch.no_grad()
def measure(
    task: Task, model: nn.Module, split: str, options: TrainConfig, device: torch.device, lanes: int
) -> Columns:
    """The scores of every example of a split, in its order, gathered from all ranks."""
    network, rows = InPrecision(distributed.as_on_rank_0(model), DTYPES[options.precision]), []
    for batch in in_turn(task.data[split], options.batch_size, options.num_workers, device, lanes):
        rows.append(task.measure(network, batch))  # left on the device, which nothing here waits for
    mine = {name: torch.cat([row[name] for row in rows]).cpu() for name in rows[0]} if rows else {}
    parts = [part for part in distributed.gather(mine) if part]
    turn = place_in_turn(len(task.data[split]), lanes)
    return {name: torch.cat([part[name] for part in parts])[turn] for name in parts[0]}


def judge_best(
    task: Task,
    model: nn.Module,
    run_dir: Path,
    options: TrainConfig,
    device: torch.device,
    lanes: int,
    history: list[dict[str, float]],
) -> dict[str, Any]:
    """Validation and test figures of best.pt, which gets the calibration that validation gives."""
    distributed.barrier()
    best = checkpoint.load(run_dir / "best.pt")
    model.load_state_dict(best["model"])
    columns = {
        split: measure(task, model, split, options, device, lanes)
        for split in ("val", "test")
        if len(task.data[split])
    }
    calibration = dict(calibration=task.calibrate(columns["val"])) if task.calibrate else {}
    if calibration and distributed.rank() == 0:
        checkpoint.save(
            run_dir / "best.pt",
            {name: best[name] for name in ("record", "epoch", "metrics", "model")} | calibration,
        )
    return (
        dict(best_epoch=best["epoch"], epochs=len(history), last=history[-1])
        | calibration
        | {split: (task.report or task.summarise)(rows) for split, rows in columns.items()}
    )


def classes_for(task: str, mode: str) -> list[type]:
    module = config.pick("mode", mode, MODES)
    return [TrainConfig, ScheduleConfig, config.pick("task", task, TASKS).Config] + (
        [module.Config] if module else []
    )


def main(argv: list[str]) -> None:
    names = config.peek(argv, "task", "lens"), config.peek(argv, "mode", "single")
    options, schedule, task_config, *mode_config = config.read(argv, *classes_for(*names))
    device, warning = distributed.device_for(options.device)
    if warning:
        print(f"train.py: {warning}", file=sys.stderr)
    if options.precision == "auto":
        on_gpu = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp16"
        options = replace(options, precision=on_gpu if device.type == "cuda" else "fp32")
    if options.deterministic != "none" and device.type == "cuda":
        # as cuBLAS asks for, before its first use
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    run_dir = Path(options.save_dir)
    with distributed.session(device):
        if options.restart and distributed.rank() == 0:
            for path in [path for pattern in WRITTEN for path in run_dir.glob(pattern)]:
                path.unlink()
        distributed.barrier()
        run_dir.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(seed_from(options.seed, "weights"))
        task = TASKS[names[0]].build(task_config, run_dir, options.num_workers)
        record = dict(
            options=config.flat(options, schedule, task_config, *mode_config), data=dict(task.record or {})
        )
        build_mode = partial(MODES[names[1]].build, mode_config[0]) if mode_config else None
        if options.deterministic == "elastic":
            if build_mode:
                raise Mistake(
                    f"--deterministic: got 'elastic' with --mode {names[1]}, expected the single mode; "
                    "give run or none"
                )
            if device.type == "cpu":  # bits depend on the number of threads too
                record["data"]["threads"] = int(os.environ.get("OMP_NUM_THREADS", "1"))
                torch.set_num_threads(record["data"]["threads"])
            build_mode = partial(elastic.build, lanes=options.lanes)
        if distributed.rank() == 0 and not (run_dir / "last.pt").exists():
            (run_dir / "config.yaml").write_text(yaml.safe_dump(record["options"], sort_keys=False))
        if distributed.rank() == 0:
            write_json(run_dir / "env.json", environment(dict(data=record["data"], device=str(device))))
        results, reason = train(task, build_mode, options, schedule, run_dir, record, device)
        if results and distributed.rank() == 0:
            print(
                f"{run_dir}: "
                + "  ".join(
                    f"{split}_{name} {results[split][name]:.4f}"
                    for split in ("val", "test")
                    if split in results
                    for name in task.monitors
                )
            )
    if reason:
        sys.exit(exit_code(reason))


if __name__ == "__main__":
    config.run(main)
