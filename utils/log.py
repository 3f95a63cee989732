"""What a run tells: lines on the terminal and in train.log, a progress bar, training_log.csv, TensorBoard.

Only rank 0 speaks. Losses and scores come from elsewhere; here is only how they are shown.
"""

import contextlib
import csv
import io
import logging
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from utils import distributed, files, plots
from utils.files import write_json
from utils.messages import visible


class Log:
    """The log of one run directory. On ranks above 0 every method does nothing."""

    def __init__(self, run_dir: Path, purge_step: int):
        self.run_dir = run_dir
        self.speaks = distributed.rank() == 0
        self.on_terminal = self.speaks and sys.stderr.isatty()
        self.lines = logging.getLogger(f"starloop.{run_dir}")
        self.lines.handlers.clear()
        self.lines.propagate = False
        self.lines.setLevel(logging.INFO if self.speaks else logging.CRITICAL)
        self.writer = self.bar = None
        if self.speaks:
            form = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
            for handler in (logging.FileHandler(run_dir / "train.log"), Terminal()):
                handler.setFormatter(form)
                self.lines.addHandler(handler)
            from torch.utils.tensorboard import SummaryWriter  # 1 s to import

            self.writer = SummaryWriter(str(run_dir), purge_step=purge_step or None)

    def info(self, text: str) -> None:
        self.lines.info(visible(text))

    def warning(self, text: str) -> None:
        self.lines.warning(visible(text))

    def progress(self, step: int, total: int, text: str) -> None:
        """A bar on a terminal; otherwise nothing, as `steps` prints a line now and then."""
        if self.on_terminal:
            self.bar = self.bar or tqdm(
                total=total, initial=step - 1, unit="step", dynamic_ncols=True, leave=False
            )
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update(step - self.bar.n)

    def steps(self, step: int, total: int, values: dict[str, float]) -> None:
        """Figures of the last steps."""
        if self.speaks:
            for name, value in values.items():
                self.writer.add_scalar(f"step/{name}", value, step)
            if not self.on_terminal:
                self.info(f"step {step}/{total}  " + "  ".join(f"{n} {v:.4g}" for n, v in values.items()))

    def epochs(self, history: list[dict[str, float]]) -> None:
        """Write training_log.csv anew from the whole history, and the newest row to TensorBoard."""
        if self.speaks:
            text = io.StringIO()
            table = csv.DictWriter(text, history[-1].keys(), lineterminator="\n")
            table.writeheader()
            table.writerows(history)
            with files.whole(self.run_dir / "training_log.csv") as temporary:
                temporary.write_text(text.getvalue())
            epoch = int(history[-1]["epoch"])
            for name, value in history[-1].items():
                self.writer.add_scalar(f"epoch/{name}", value, epoch)
            self.info("  ".join(f"{n} {v:.4g}" for n, v in history[-1].items()))

    def end(self, options: dict[str, Any], results: dict[str, Any], history: list[dict[str, float]]) -> None:
        """Write results.json and the curves of the run, and the options beside the final figures to
        TensorBoard.
        """
        if self.speaks:
            import pandas

            write_json(self.run_dir / "results.json", results)
            figures = {
                f"final/{name}": value
                for name, value in results.get("test", results["val"]).items()
                if isinstance(value, (int, float))
            }
            self.writer.add_hparams(
                {name: v for name, v in options.items() if isinstance(v, (int, float, str, bool))},
                figures,
                run_name=".",
            )
            (self.run_dir / "figures").mkdir(exist_ok=True)
            plots.save_figure(
                plots.figure_training(pandas.DataFrame(history)), self.run_dir / "figures", "curves"
            )
        self.info(
            f"finished: best epoch {results['best_epoch']} of {results['epochs']}, results in "
            f"{self.run_dir}/results.json"
        )

    def close(self) -> None:
        if self.bar:
            self.bar.close()
        if self.writer:
            self.writer.close()
        for handler in list(self.lines.handlers):
            handler.close()
            self.lines.removeHandler(handler)


class Terminal(logging.Handler):
    """Lines that do not tear the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # nobody reads it any more; train.log has it
            tqdm.write(self.format(record), file=sys.stderr)


def environment(extra: dict[str, Any]) -> dict[str, Any]:
    """Where and with what a run was made, for env.json."""
    import numpy

    return dict(
        argv=sys.argv,
        host=platform.node(),
        platform=platform.platform(),
        python=platform.python_version(),
        torch=torch.__version__,
        numpy=numpy.__version__,
        cuda=torch.version.cuda,
        git=commit_here(),
        threads=torch.get_num_threads(),
        ranks=distributed.world_size(),
        **extra,
    )


def commit_here() -> str:
    """What git calls the commit of this tree; empty where there is no history here, or no git."""
    here = Path(__file__).parent.parent
    if not (here / ".git").exists() or not shutil.which("git"):
        return ""  # a repository further up is another's
    described = subprocess.run(
        ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip()


def resident_gib() -> float:
    """Memory of this process in GiB (Linux; 0 elsewhere)."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**30 if statm.exists() else 0.0
