"""Ask a trained network: a checkpoint and data give one row for each input.

    python predict.py --model_path runs/nano_s42/best.pt --data D --which val --output_dir \
        runs/nano_s42/pred_val
    python predict.py --model_path runs/nano_s42/best.pt --images UNLABELLED --which test --output_dir \
        runs/nano_s42/pred_test
    python predict.py --model_path runs/nano_s42/best.pt --help

Lenses: pred_<which>.csv (path,domain,label,prob,pred), probs_, labels_ and preds_<which>.npy, one row a file;
files_<which>.csv (path,object,band), which says what each of these rows is; objects_<which>.csv, one row an
object, with its place on the sky where that is known; and quarantine_<which>.csv, which names each file that
has no probability, with the reason. Light curves:
embedding_<which>.parquet. The task, its network, split and preprocessing come from the checkpoint;
tasks/<task>/asked.py says what is asked and written. Interrupted, the same command goes on where it was;
under torchrun the ranks share the work.
"""

import utils  # noqa: F401  first, before torch: it says how threads wait

import shutil
import sys
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from data.parts import how_cut, predict_parts
from tasks import TASKS
from trained import Compute, as_asked, check_weights, load_weights, read_checkpoint
from utils import checkpoint, config, distributed
from utils.config import option
from utils.mistake import Mistake


@dataclass(frozen=True)
class Config(Compute):
    model_path: str = ""  # best.pt (or last.pt) of a run directory
    output_dir: str = "pred_outputs"  # where the predictions go
    # the split to predict; blind: files without a label
    which: Literal["train", "val", "test", "all", "blind"] = "test"
    max_samples: int = option(0, least=0)  # predict only the first so many examples; 0 = all

    def __post_init__(self):
        super().__post_init__()
        if not self.model_path:
            raise Mistake("--model_path: expected a checkpoint, such as runs/nano_s42/best.pt")


def read_options(argv: list[str]) -> tuple[Config, Any, Any, dict[str, Any]]:
    """The options, those of the answer, the task's configuration as it was trained (inputs as given here),
    the checkpoint.

    Raises Mistake for a flag that contradicts the checkpoint's record, naming both values.
    """
    path = config.peek(argv, "model_path", "")
    saved = read_checkpoint(path) if path else None
    # without a checkpoint there is only --help to show
    task = saved["record"]["options"]["task"] if saved else "lens"
    question = config.pick("task", task, TASKS)
    options, own, given = config.read_options(argv, Config, question.Asked, question.Config)
    trained = config.recorded(TASKS[task].Config, saved["record"]["options"])
    check_weights(TASKS[task].rebuild, saved, path)
    inputs = {field.name: getattr(given, field.name) for field in fields(TASKS[task].Inputs)}
    known = config.fields_of(TASKS[task].Config)
    for name in sorted(config.options_given(argv, TASKS[task].Config) - inputs.keys()):
        ours, theirs = getattr(given, name), getattr(trained, name)
        if ours != theirs and not known[name].metadata.get("free"):
            raise Mistake(
                f"--{name}: got {ours!r}, but the network was trained with {theirs!r}; leave the flag out, "
                "the checkpoint knows it"
            )
    return options, own, replace(trained, **inputs), saved


def main(argv: list[str]) -> None:
    options, own, task, saved = read_options(argv)
    device, warning = distributed.device_for(options.device)
    trained_in = saved["record"]["options"]["precision"]
    options = replace(options, precision=trained_in if options.precision == "auto" else options.precision)
    with distributed.session(device):
        answer = TASKS[saved["record"]["options"]["task"]].answer(options, own, task, saved)
        model = load_weights(answer.model, saved, device)
        total = min(len(answer.data), options.max_samples or len(answer.data))

        # What an interrupted prediction of just this has done is taken up; of anything else it is not.
        asked = [
            answer.key,
            options.precision,
            options.compile,
            options.which,
            options.max_samples,
            how_cut(),
        ]
        same = checkpoint.digest([model.state_dict(), *asked])
        out = Path(options.output_dir)
        folder = out / f"parts_{same[:16]}"
        folder.mkdir(parents=True, exist_ok=True)
        if distributed.rank() == 0:
            for line in [*filter(None, [warning]), *answer.notes]:
                print(f"predict.py: {line}", file=sys.stderr)

        ask = partial(answer.predict, as_asked(model, options.precision, options))
        parts = predict_parts(
            answer.data,
            ask,
            options.batch_size,
            options.num_workers,
            device,
            folder,
            total,
            distributed.rank(),
            distributed.world_size(),
        )
        distributed.barrier()
        if distributed.rank() == 0:
            written = answer.write(parts, out)
            shutil.rmtree(folder)
            print(written)


def console() -> None:
    """The command starloop-predict of an installed Starloop (pyproject.toml)."""
    config.run_script(main)


if __name__ == "__main__":
    console()
