"""Judge predictions: figures of merit with confidence intervals, the best threshold, calibration, figures.

    python evaluate.py --tag val --from_csv --csv runs/nano_s42/pred_val/pred_val.csv --per_domain --plot
    python evaluate.py --tag test --from_csv --csv pred_test.csv --by_object --threshold_file \
        ens/threshold.txt
    python evaluate.py --tag test --from_npy --labels labels_test.npy --probs probs_test.npy \
        --optimize_threshold
    python evaluate.py --tag test --csv pred_test.csv --calibrate temperature --calibrate_on pred_val.csv \
        --by_object --plot
    python evaluate.py --tag cnn --csv other_code.txt --columns id=objid prob=p_lens label=is_lens --scale 100
    python evaluate.py --report stores/galaxiesml

Writes metrics_<tag>.json and metrics_<tag>.csv (scope,metric,value), and with --plot figures as PNG and PDF,
with their numbers as CSV. A row is called a lens if prob >= threshold. Rows without a label or a probability
are counted and left out. With --calibrate the probabilities are calibrated by a map that is fitted on another
table, and judged then; the calibration error before and after is printed and drawn. A threshold is one on
calibrated probabilities. With --report, one HTML page of what is in a store, and nothing else.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from data.cutouts import report as store_report, store
from evaluation import calibration, figures_of_merit, identity, predictions, scores, submission, thresholds
from evaluation.plots import (
    count_table,
    curve_table,
    figure_confusion,
    figure_precision_recall,
    figure_purity_completeness,
    figure_reliability,
    figure_roc,
    figure_scores,
    scope_title,
)
from utils import config, files, plots
from utils.config import Options, option, several
from utils.messages import say
from utils.mistake import Mistake

tell = partial(say, script="evaluate.py")


@dataclass(frozen=True)
class Config(Options):
    tag: str = "test"  # names the outputs: metrics_<tag>.json
    from_csv: bool = False  # read --csv
    csv: str = ""  # table path,domain,label,prob,pred of predict.py or ensemble.py; of others with --columns
    # of a table of another code (CSV, FITS, VOTable ...): id=NAME prob=NAME label=NAME domain=NAME
    columns: list[str] = several()
    scale: float = option(1.0, above=0)  # of prob in that table: what stands for certain, 100 of percents
    from_npy: bool = False  # read --labels and --probs
    labels: str = ""  # labels_<split>.npy
    probs: str = ""  # probs_<split>.npy
    preds: str = ""  # preds_<split>.npy: compared with prob >= threshold, a difference is reported
    threshold: float = 0.5  # a lens is called where prob >= threshold
    threshold_file: str = ""  # file that holds the threshold, as ensemble.py writes it
    # take the threshold with the largest Youden's J on these very predictions
    optimize_threshold: bool = False
    by_object: bool = False  # fuse the bands and domains of an object first: the mean of their probabilities
    per_domain: bool = False  # figures for each domain too
    calibrate: Literal["none", "temperature", "vector", "isotonic"] = "none"  # judge calibrated probabilities
    # table of labelled predictions that the calibration is fitted on, such as pred_val.csv
    calibrate_on: str = ""
    plot: bool = False  # figures
    bootstrap: int = option(1000, least=0)  # replicates behind the 95 % intervals; 0 = none
    seed: int = option(42, least=0)  # of the bootstrap
    out_dir: str = "./eval_outputs"  # where the outputs go
    report: str = ""  # folder of a store: write report_<its name>.html instead

    def __post_init__(self):
        super().__post_init__()
        if not self.tag or set(self.tag) & set("/\\"):
            raise Mistake(f"--tag {self.tag!r}: expected a word that can stand in a file name")
        if self.report:
            return
        if bool(self.csv) == bool(self.labels or self.probs) or bool(self.labels) != bool(self.probs):
            raise Mistake("expected either --from_csv --csv FILE, or --from_npy --labels FILE --probs FILE")
        if self.from_csv and not self.csv or self.from_npy and not self.probs:
            raise Mistake("--from_csv goes with --csv FILE, --from_npy with --labels FILE and --probs FILE")
        if (self.columns or self.scale != 1) and not self.csv:
            raise Mistake("--columns and --scale go with --csv, the table of another code")
        if wrong := [text for text in self.columns if not all(text.partition("="))]:
            raise Mistake(f"--columns {wrong[0]!r}: expected id=NAME, prob=NAME, label=NAME or domain=NAME")
        if self.preds and self.csv:
            raise Mistake("--preds goes with --from_npy; a CSV has its own")
        if self.csv == "" and (self.by_object or self.per_domain):
            raise Mistake(
                "--by_object and --per_domain need names and domains, which NPY files lack: use --from_csv"
            )
        if bool(self.calibrate_on) != (self.calibrate != "none"):
            raise Mistake(
                f"--calibrate {self.calibrate} --calibrate_on {self.calibrate_on!r}: expected both, a kind "
                "and the table to fit it on"
            )
        if not np.isfinite(self.threshold):
            raise Mistake(f"--threshold: got {self.threshold}, expected a finite number")


def read_table(options: Config) -> tuple[pd.DataFrame, np.ndarray | None]:
    """The predictions, and for rows that are single bands the object of each (None if every row stands
    alone).
    """
    if options.columns or options.scale != 1:
        return read_others(options)
    return (
        read_csv(options.csv, options.by_object)
        if options.csv
        else (predictions.read_arrays(options.labels, options.probs), None)
    )


def read_others(options: Config) -> tuple[pd.DataFrame, np.ndarray | None]:
    """What read_table returns, for a table of another code: its ids are the objects, and nothing is cut off
    them.
    """
    named = dict(text.split("=", 1) for text in options.columns)
    table = predictions.read_foreign(options.csv, named, options.scale, say)
    twice = bool(table["path"].duplicated().any())
    if not (twice and options.by_object):
        return table, table["path"].to_numpy(dtype=object) if twice else None
    fused = predictions.fuse_predictions(table, [table["path"].rename("object"), "domain", "label"])
    print(f"{options.csv}: {len(table)} rows fused to {len(fused)} objects (mean of their probabilities)")
    return fused, None


def read_csv(path: str, by_object: bool) -> tuple[pd.DataFrame, np.ndarray | None]:
    """What read_table returns, for a CSV."""
    table = identity.identified_rows(predictions.read_predictions(path), path, tell)
    table = table.assign(domain=submission.unharmed(table["domain"], "domain", True, tell))
    if not by_object:
        repeated = table.duplicated(["object", "domain", "label"]).any()
        return table, table["object"].to_numpy() if repeated else None
    table = table.assign(apart=identity.judged_apart(table, "object", tell))
    fused = predictions.fuse_predictions(table, ["object", "apart"])
    how = "fused to" if len(fused) < len(table) else "are"
    mean = " (mean of the bands' probabilities)" if len(fused) < len(table) else ": there is nothing to fuse"
    print(f"{path}: {len(table)} rows {how} {len(fused)} objects{mean}")
    return fused, None


def calibrated(table: pd.DataFrame, options: Config) -> tuple[pd.DataFrame, calibration.Calibration]:
    """The table with calibrated probabilities, and the map, fitted on --calibrate_on at the same level."""
    on = scores.labelled_rows(read_csv(options.calibrate_on, options.by_object)[0])
    fitted = calibration.fit_calibration(options.calibrate, predictions.logit(on["prob"]), on["label"])
    after = table.assign(prob=calibration.apply_calibration(fitted, predictions.logit(table["prob"])))
    same = Path(options.csv or options.probs).resolve() == Path(options.calibrate_on).resolve()
    print(
        f"{options.calibrate} calibration, fitted on {len(on)} rows of {options.calibrate_on}"
        + (", these very predictions: what is reported after it is optimistic for others" if same else "")
    )
    if len(judged := scores.labelled_rows(table)):
        print(
            calibration.calibration_lines(
                judged["label"], judged["prob"], scores.labelled_rows(after)["prob"]
            )
        )
    return after, fitted


def choose_threshold(options: Config, judged: pd.DataFrame, argv: list[str]) -> float:
    """The threshold by the one of three flags that is given."""
    given = [
        f"--{name}"
        for name in ("threshold", "threshold_file", "optimize_threshold")
        if name in config.options_given(argv, Config)
    ]
    if len(given) > 1:
        raise Mistake(f"{' and '.join(given)}: give one of them")
    if options.optimize_threshold:
        threshold, j = figures_of_merit.youden(judged["label"], judged["prob"])
        print(
            f"threshold {threshold!r}: Youden's J = {j:.4f} on these predictions; what is reported at it is "
            "optimistic for others"
        )
        return threshold
    return thresholds.read_threshold(options.threshold_file) if options.threshold_file else options.threshold


def compare_preds(options: Config, table: pd.DataFrame, threshold: float) -> None:
    """Say where --preds were made with another threshold."""
    pred = predictions.array(options.preds)
    prob = table["prob"].to_numpy()
    if pred.shape != prob.shape:
        raise Mistake(f"--preds {options.preds!r}: {len(pred)} rows, expected {len(prob)} as in --probs")
    if differ := int(((pred != (prob >= threshold)) & ~np.isnan(prob)).sum()):
        print(f"{differ} of {len(pred)} --preds differ from prob >= {threshold!r}, which is what counts here")


def draw(judged: pd.DataFrame, before: pd.DataFrame, sheet: scores.Scores, options: Config) -> None:
    """Every figure, and the numbers behind it; the reliability before calibration, too,
    if that is another.
    """
    folder = Path(options.out_dir)
    threshold = sheet["global"]["threshold"]
    label, prob = judged["label"].to_numpy(), judged["prob"].to_numpy()
    parts = {
        scope: (label[here], prob[here]) for scope, here in scores.scopes(judged, options.per_domain).items()
    }
    bins = {scope: figures_of_merit.reliability(*part) for scope, part in parts.items()}
    if before is not judged:
        bins = {"before calibration": figures_of_merit.reliability(before["label"], before["prob"])} | bins
    single = [scope for scope in parts if scope != "global"] or ["global"]
    groups = {
        f"{scope_title(scope)} {kind}": parts[scope][1][parts[scope][0] == value]
        for scope in single
        for value, kind in ((1, "lenses"), (0, "non-lenses"))
    }
    figures = dict(
        reliability=figure_reliability(bins),
        score_histogram=figure_scores(groups, threshold),
        confusion=figure_confusion(sheet),
    )
    tables = dict(
        reliability=pd.concat([pd.DataFrame(dict(scope=scope) | table) for scope, table in bins.items()]),
        score_histogram=count_table(groups),
        confusion=pd.DataFrame(
            [
                dict(scope=scope) | {name: s[name] for name in ("threshold", "tn", "fp", "fn", "tp")}
                for scope, s in sheet.items()
            ]
        ),
    )
    curves = {scope: figures_of_merit.curve(*part) for scope, part in parts.items() if 0 < part[0].mean() < 1}
    if "global" in curves:
        figures |= dict(
            roc=figure_roc(curves),
            precision_recall=figure_precision_recall(curves),
            purity_completeness=figure_purity_completeness(curves["global"], threshold),
        )
        tables["curves"] = curve_table(curves)
    for name, figure in figures.items():
        plots.save_figure(figure, folder, f"{name}_{options.tag}")
    for name, table in tables.items():
        with files.whole(folder / f"{name}_{options.tag}.csv") as temporary:
            table.to_csv(temporary, index=False)
    print(f"figures: {', '.join(figures)} (PNG, PDF; numbers in {', '.join(tables)}_{options.tag}.csv)")


def write_report(options: Config) -> None:
    packed = store.open_store(options.report)
    path = Path(options.out_dir) / f"report_{packed.directory.resolve().name}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    store_report.write_store_report(packed, path, print)
    print(path)


def main(argv: list[str]) -> None:
    (options,) = config.read_options(argv, Config)
    if options.report:
        return write_report(options)
    table, objects = read_table(options)
    before = scores.labelled_rows(table)
    fitted = None
    if options.calibrate != "none":
        table, fitted = calibrated(table, options)
    judged = scores.labelled_rows(table) if fitted else before
    unlabelled, without = int(table["label"].isna().sum()), int(table["prob"].isna().sum())
    if unlabelled or without:
        print(
            f"{len(table)} rows: {unlabelled} without a label and {without} without a probability "
            "(quarantined) are left out"
        )
    threshold = choose_threshold(options, judged, argv)
    if options.preds:
        compare_preds(options, table, threshold)
    sheet = scores.score_table(table, threshold, options.per_domain, options.bootstrap, options.seed, objects)
    if objects is not None and options.bootstrap:
        print(
            "rows of one object are resampled together in the intervals; --by_object judges objects instead "
            "of files"
        )
    Path(options.out_dir).mkdir(parents=True, exist_ok=True)
    about = dict(
        source=options.csv or options.probs,
        rows=len(table),
        unlabelled=unlabelled,
        quarantined=without,
        level="object" if options.by_object else "row",
        bootstrap=options.bootstrap,
        seed=options.seed,
        calibration=fitted,
    )
    scores.write_scores(sheet, Path(options.out_dir), options.tag, about)
    if options.plot:
        draw(judged, before, sheet, options)
    print(scores.score_lines(sheet))
    for scope, figures in sheet.items():
        if "undefined" in figures:
            print(f"{scope}: {figures['undefined']}")
    for line in scores.inverted_lines(sheet):
        say(f"warning: {line}", "evaluate.py")
    print(f"{Path(options.out_dir) / f'metrics_{options.tag}.json'}")


def console() -> None:
    """The command starloop-evaluate of an installed Starloop (pyproject.toml)."""
    config.run_script(main)


if __name__ == "__main__":
    console()
