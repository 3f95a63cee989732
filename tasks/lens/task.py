"""Is there a strong gravitational lens in the middle of this cutout? (Strong Lens Data Challenge)"""

from dataclasses import replace
from functools import partial
from pathlib import Path

from contract import Task
from data import split
from data.balance import Balanced
from data.bands import usual_name
from data.cutouts import truth
from models.pretrained import load_pretrained
from tasks.lens import judge, losses as lens_losses
from tasks.lens.config import Config
from tasks.lens.inputs import from_store, from_stream, quantities_without_truth
from tasks.lens.network import build_network, channels_of, refuse_impossible
from tasks.lens.units import trained_pixel_scale
from utils import distributed
from utils.messages import say
from utils.mistake import Mistake


def build(config: Config, run_dir: Path, workers: int) -> Task:
    """Pack the cutouts, split them by object, and pose the question."""
    refuse_impossible(config)
    data, bands, record = from_stream(config) if config.stream else from_store(config, run_dir, workers)
    if len(data["val"]) and len(set(data["val"].label.tolist())) < 2:
        raise Mistake(
            f"the validation split holds {len(data['val'])} examples of one class: give lenses and "
            "non-lenses, more objects, or a larger --val_frac"
        )
    if len(data["test"]) and len(only := set(data["test"].label.tolist())) < 2 and distributed.rank() == 0:
        say(
            f"the test split holds {len(data['test'])} examples, all {split.CLASSES[int(only.pop())]}: its "
            "AUC and its like are not defined; more objects or a larger --test_frac give it both classes"
        )
    model = build_network(
        replace(config, pixel_scale=trained_pixel_scale(config, record)), channels_of(config, bands)
    )
    if without := quantities_without_truth(config, data["train"]):
        record["not_learnt"] = without  # not there in a record of which nothing is to be said
        if distributed.rank() == 0:
            print(
                f"no training lens tells of {' '.join(without)}, which predict.py will not write: expected "
                f"them in {truth.NAME} beside the files",
                flush=True,
            )
    columns = data["train"].columns
    if config.use_metadata:
        (model.metadata or model.network).fit(columns["metadata"], columns["metadata_mask"])
    if "targets" in columns:
        model.fit_quantities(columns["targets"])
    if config.initial_checkpoint:
        try:
            body = getattr(model.network, "body", model.network)
            of_channels = bands if config.band_mode == "stack" else ()
            print(load_pretrained(body, config.initial_checkpoint, of_channels, usual_name))
        except ValueError as error:
            raise Mistake(f"--initial_checkpoint: {error}") from error
    label, domain = data["train"].label, data["train"].domain
    weights = lens_losses.class_weights(config, label, domain)
    if config.balance:
        data = data | dict(train=Balanced(data["train"], label > 0.5))
    if distributed.rank() == 0 and (weights != (1.0, 1.0) or config.balance):
        say(
            f"training: {int((label > 0.5).sum()):,} lenses and {int((label < 0.5).sum()):,} non-lenses, "
            f"weights in the loss {weights[1]:.4g} and {weights[0]:.4g}"
            + (", drawn as often as each other (--balance)" if config.balance else "")
        )
    return Task(
        model,
        data,
        lens_losses.build_loss(config, len(data["train"]), weights),
        partial(judge.measure, config=config),
        {"auc": "max", "loss": "min", "acc": "max"},
        lambda columns: judge.summarise(judge.trusted_rows(config, columns)),
        judge.report,
        partial(judge.calibrate, config),
        lambda writer, model, columns, epoch: judge.illustrate(writer, columns, epoch, data["val"]),
        record,
    )
