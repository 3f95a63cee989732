"""Is there a strong gravitational lens in the middle of this cutout? (Strong Lens Data Challenge)"""

from dataclasses import replace
from functools import partial
from pathlib import Path

from contract import Task
from data.bands import usual_name
from models.pretrained import load_pretrained
from tasks.lens import judge, losses as lens_losses
from tasks.lens.config import Config
from tasks.lens.inputs import from_store, from_stream
from tasks.lens.network import build_network, channels_of, refuse_impossible
from tasks.lens.units import trained_pixel_scale
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
    model = build_network(
        replace(config, pixel_scale=trained_pixel_scale(config, record)), channels_of(config, bands)
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
    return Task(
        model,
        data,
        lens_losses.build_loss(config, len(data["train"])),
        partial(judge.measure, config=config),
        {"auc": "max", "loss": "min", "acc": "max"},
        lambda columns: judge.summarise(judge.trusted_rows(config, columns)),
        judge.report,
        partial(judge.calibrate, config),
        lambda writer, model, columns, epoch: judge.illustrate(writer, columns, epoch, data["val"]),
        record,
    )
