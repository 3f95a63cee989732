"""A trained autoencoder of light curves in a notebook: curves in, a table out (trained.load)."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from contract import concatenated
from data.light_curves.curve import LightCurve
from data.light_curves.given import pack_of_curves
from data.light_curves.packed import Packed
from tasks.light_curve import anomaly
from tasks.light_curve.asked import embedding_table, known_of, notes_of, refused_table, statistics_of
from tasks.light_curve.config import Config
from tasks.light_curve.inputs import curves_for, split_curves
from utils.checkpoint import bands_of
from utils.config import recorded
from utils.messages import say


class CurveEmbedder:
    """A network that knows its bands; `embed` gives the table that predict.py writes.

    bands   names, energies in keV or filters, in their order
    record  of the checkpoint: options, and what the training knew of its data
    """

    def __init__(self, saved: Mapping[str, Any], network: nn.Module, device: torch.device):
        self.saved = saved
        self.record = saved["record"]
        self.config = recorded(Config, self.record["options"])
        self.bands = tuple(bands_of(self.record))
        self.network = network
        self.device = device

    def __repr__(self) -> str:
        return (
            f"CurveEmbedder({self.config.model}, bands {' '.join(self.bands)}, latent vectors of "
            f"{self.config.latent}, on {self.device})"
        )

    def embed(
        self,
        curves: Sequence[LightCurve] | str | os.PathLike,
        batch_size: int = 128,
        store_dir: str | os.PathLike | None = None,
        workers: int = 1,
    ) -> pd.DataFrame:
        """A row a curve, in their order: path, source, split, points, signal, rate_<band> (the unit of the
        input), z_00 ... (latent vector) and s_00 ... (its standard deviation), anomaly and the other scores,
        nine statistics by hand, and `reason` where a curve has no embedding (docs/light_curves.md).

        curves: LightCurves (data/light_curves/curve.py: T points, C bands, times in s, rates and errors
            [T, C]), or a folder of light curves, a file, or a manifest, which are read with the options of
            the training.
        batch_size: curves at once.
        store_dir: where files are packed, so that a second call need not read them; None: nowhere for long.
        workers: processes that read files.

        Raises: Mistake for curves of other bands than the network's, or of which none can be embedded.
        """
        if not isinstance(curves, (str, os.PathLike)):
            return self.table_of(pack_of_curves(curves, self.bands), self.config, batch_size)
        with tempfile.TemporaryDirectory() as short_lived:
            folder = os.fspath(store_dir or short_lived)
            config = replace(self.config, data=os.fspath(curves), store_dir=folder)
            packed, lines = curves_for(self.bands, config, workers)
            for line in lines:
                say(line)
            return self.table_of(packed, config, batch_size)

    @torch.no_grad()
    def table_of(self, packed: Packed, config: Config, batch_size: int) -> pd.DataFrame:
        usable = packed.good & (packed.points >= config.min_points)
        known, notes = known_of(packed, split_curves(packed, config), usable, config, self.record["data"])
        for line in [*notes, *notes_of(known, usable, self.saved)]:
            say(line)
        courses = self.saved.get("calibration") or anomaly.calibration(
            self.network, known.examples, known.noise
        )
        answers = []
        for start in range(0, len(known.examples), batch_size):
            stop = min(start + batch_size, len(known.examples))
            batch = known.examples.__getitems__(range(start, stop))
            batch = {name: values.to(self.device) for name, values in batch.items()}
            answer = anomaly.embed(self.network, batch, known.noise)
            answers.append(answer | dict(statistics=statistics_of(batch, known.by_band)))
        columns = {name: values.cpu().numpy() for name, values in concatenated(answers).items()}
        frame = embedding_table(known, known.examples.rows, columns, courses)
        refused = np.flatnonzero(~usable)
        if len(refused):
            say(f"{len(refused):,} of {len(usable):,} curves have no embedding: the column reason says why")
            frame = pd.concat([frame, refused_table(known, refused, like=frame)], ignore_index=True)
        order = np.argsort(np.concatenate([known.examples.rows, refused]), kind="stable")
        return frame.iloc[order].reset_index(drop=True)
