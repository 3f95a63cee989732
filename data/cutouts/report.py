"""What is in a store, on one page: counts, distributions, the sky, images, outliers, quarantine."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from data.cutouts import metadata, quality, quality_table
from data.cutouts.store import Store
from data.page import HtmlPage
from utils import plots

SHOWN, IMAGES = 50, 32  # rows of a table, images of a mosaic
BINS = 40


def write_store_report(store: Store, path: Path, say) -> None:
    """The page of a store. Raises Mistake where the store is damaged."""
    page = HtmlPage(f"Store {store.directory.name}")
    index = store.index
    measures = quality_table.quality_of(store, say)
    page.lines(store.summary())
    page.section("Images")
    page.table(counts(index))
    rows = spread(np.flatnonzero(store.good), IMAGES)
    if len(rows):
        page.figure(mosaic(store, rows))
    if store.metadata is not None:
        table = metadata.typed_metadata(store.metadata)
        problems = metadata.validate_metadata(table)
        page.section("Objects")
        page.lines(metadata.metadata_summary(table, problems))
        if (known := table["ra"].notna() & table["dec"].notna()).any():
            page.figure(sky(table["ra"][known].to_numpy(), table["dec"][known].to_numpy()))
        numbers = {
            column: table[column].to_numpy(np.float64)
            for column in table
            if metadata.field_of(column) and table[column].dtype.kind == "f"
        }
        if numbers := {
            name: values
            for name, values in numbers.items()
            if np.isfinite(values).any() and name not in ("ra", "dec")
        }:
            page.figure(histograms(numbers))
        if len(problems):
            page.table(problems.head(SHOWN))
    page.section("Quality of the images")
    page.lines(
        [
            f"{name}: {measure.meaning}" + (f" ({measure.unit})" if measure.unit else "")
            for name, measure in quality.MEASURES.items()
        ]
    )
    page.figure(
        histograms(
            {
                name: measures[name].to_numpy(np.float64)
                for name in [*quality.MEASURES, "weight"]
                if measures[name].notna().any()
            }
        )
    )
    unlike = np.flatnonzero(measures["outlier"] != "")
    if len(unlike):
        page.lines([f"{len(unlike):,} images are unlike the others of their band; the first:"])
        page.table(
            index[["object", "band", "path"]]
            .iloc[unlike]
            .assign(unlike_in=measures["outlier"].iloc[unlike])
            .head(SHOWN)
        )
        page.figure(mosaic(store, spread(unlike, IMAGES)))
    page.section("Quarantine")
    bad = index.loc[index["reason"] != "", ["path", "reason"]]
    page.table(bad.head(SHOWN)) if len(bad) else page.lines(["no image is quarantined"])
    page.write(path)


def counts(index: pd.DataFrame) -> pd.DataFrame:
    """Images, objects and quarantined ones by domain, label and band."""
    groups = index.assign(quarantined=index["reason"] != "").groupby(["domain", "label", "band"], sort=True)
    return groups.agg(
        images=("path", "size"), objects=("object", "nunique"), quarantined=("quarantined", "sum")
    ).reset_index()


def spread(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many of them, evenly through the store."""
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)] if len(rows) else rows


def mosaic(store: Store, rows: np.ndarray) -> Figure:
    names = store.index[["object", "band"]].iloc[rows]
    return plots.mosaic(
        store.read(rows), [f"{name} {band}"[-24:] for name, band in names.itertuples(index=False)]
    )


def sky(ra: np.ndarray, dec: np.ndarray) -> Figure:
    """Positions in degrees on a Mollweide map, right ascension increasing to the left."""
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    ax = figure.add_subplot(projection="mollweide")
    ax.grid(alpha=0.4)
    ax.plot(
        -np.radians((ra + 180) % 360 - 180), np.radians(dec), ".", markersize=2, alpha=0.5, rasterized=True
    )
    hours = np.arange(150, -151, -30)
    ax.set_xticks(-np.radians(hours[::-1]), [f"{degrees % 360}°" for degrees in hours[::-1]])
    return figure


def histograms(columns: dict[str, np.ndarray]) -> Figure:
    """One panel a column, its finite values within the central 99 %; the logarithm of what spans decades."""
    across = min(4, len(columns))
    down = math.ceil(len(columns) / across)
    figure = Figure(figsize=(3 * across, 2.2 * down), layout="constrained")
    for ax, (name, values) in zip(figure.subplots(down, across, squeeze=False).flat, columns.items()):
        values = values[np.isfinite(values)]
        low, high = np.quantile(values, [0.005, 0.995])
        inside = values[(values >= low) & (values <= high)]
        decades = low > 0 and high > 100 * low
        bins = np.geomspace(low, high, BINS) if decades else BINS
        ax.hist(inside, bins=bins, histtype="stepfilled", alpha=0.6)
        ax.set_xscale("log" if decades else "linear")
        ax.set_title(name, fontsize=8)
        ax.tick_params(labelsize=7)
    for ax in figure.axes[len(columns) :]:
        ax.set_axis_off()
    return figure
