"""Combine the predictions of many seeds or networks, choose the threshold on validation,
write the submission.

    python ensemble.py --val s42/pred_val.csv s101/pred_val.csv --test s42/pred_test.csv s101/pred_test.csv \
        --out_dir ens
    python ensemble.py --test s42/pred_test.csv s101/pred_test.csv --threshold_file ens/threshold.txt \
        --out_dir ens_test
    python ensemble.py --val vit/pred_val.csv film/pred_val.csv --combine stack --calibrate temperature \
        --uncertainty --out_dir ens

1. The members' probabilities of each file are combined (--combine): val_ens.csv, and test_ens.csv, or
   test_ens_labeled.csv if the test files have labels; one row a file, pred = 1 if prob >= t*. With stack or
   stack_logit the members have weights that are fitted on validation, and compared with the plain mean on
   objects held out: weights.json.
2. The bands of an object, and its domains, are fused (--id): the mean of their probabilities, or of logits
   with --combine logit or stack_logit: val_ens_objects.csv, test_ens_objects.csv. --calibrate calibrates what
   comes out, on validation: calibration.json; a table of files that are bands keeps its raw prob then, and
   has no pred.
   What object and band a file is follows from files_<which>.csv, which predict.py writes beside
   pred_<which>.csv; objects_<which>.csv can be given instead of that. Only names of other tables are taken
   apart, and what was taken for a band is said.
3. t* is Youden's threshold on validation alone, or with --threshold_by conformal the one that keeps 1 - alpha
   of new lenses, at the level that is submitted (objects, if bands were fused), since a mean of five bands is
   spread otherwise than one band: threshold.txt, metrics_val_ens.json (global.threshold).
4. submission.csv: every id once, called a lens if prob >= t*, with RA and Dec where they are known. With
   --test_parameters those called lenses get the parameters that networks inferred; what is not known, and
   every parameter of one that is called a non-lens, is --fill.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from evaluation import (
    members,
    calibration,
    conformal,
    folds,
    identity,
    inferred as parameters,
    predictions,
    scores,
    stacking,
    submission,
    thresholds,
)
from evaluation.decision import Decision, read_decision, write_decision
from evaluation.members import ROW, Members
from evaluation.prior_shift import PriorShift, prior_shift, purity_line
from utils import config, files
from utils.config import Options, option, several
from utils.messages import say
from utils.mistake import Mistake


@dataclass(frozen=True)
class Config(Options):
    val: list[str] = several()  # predictions of the validation files, one CSV a member
    test: list[str] = several()  # predictions of the test files, one CSV a member
    out_dir: str = "./ensemble"  # where the outputs go
    # members are matched by path or file name; auto: name if paths differ
    match: Literal["auto", "path", "name"] = "auto"
    # mean of probabilities, of logits, median; or weights
    combine: Literal["mean", "logit", "median", "stack", "stack_logit"] = "mean"
    # an earlier weights.json, instead of fitting --combine stack or stack_logit on --val
    weights_file: str = ""
    # what is judged and submitted; auto: object, and stem if nothing says that files are bands
    id: Literal["auto", "object", "stem"] = "auto"
    # map of the combined probability, fitted on --val
    calibrate: Literal["none", "temperature", "vector", "isotonic"] = "none"
    calibration_file: str = ""  # an earlier calibration.json, instead of --calibrate
    threshold_by: Literal["youden", "conformal"] = "youden"  # how t* is chosen on --val
    # conformal: the share of new lenses that may be missed
    alpha: float = option(0.1, above=0, below=1)
    # conformal: 0, or the chance that validation misleads and more than alpha are missed
    delta: float = option(0.0, least=0, below=1)
    threshold_file: str = ""  # an earlier threshold.txt, instead of choosing t* on --val
    # write uncertainty_val.csv, uncertainty_test.csv: aleatoric and epistemic parts
    uncertainty: bool = False
    # parameters of the test files, as predict.py writes them, one CSV a member that has some
    test_parameters: list[str] = several()
    fill: int = -99  # value of the columns that are not predicted; the challenge's own is -999
    # 32 columns, the challenge's 41, or id and prediction
    columns: Literal["request", "official", "short"] = "request"
    submit: Literal["label", "prob"] = "label"  # 0 or 1, or the probability
    # --submit prob: at this rate of lenses on the sky, such as 1e-4, instead of that of the training; 0: as
    # it is
    lens_rate: float = option(0.0, least=0, below=1)
    # the rate that the probabilities were learnt at; 0: that of --val. Of networks that were trained with
    # --balance or --class_weight balanced it is 0.5, unless they are calibrated
    training_rate: float = option(0.0, least=0, below=1)
    # an object without any probability is submitted as 0, or refused
    missing: Literal["nonlens", "error"] = "nonlens"
    submission: str = "submission.csv"  # its file name within --out_dir
    # an apostrophe before ids and domains that a spreadsheet would run (= + @ tab, - that is no number)
    escape: bool = False
    bootstrap: int = option(1000, least=0)  # replicates behind the 95 % intervals; 0 = none
    seed: int = option(42, least=0)  # of the bootstrap and of the folds

    def __post_init__(self):
        super().__post_init__()
        if not self.val and not self.test:
            raise Mistake("expected --val and --test, with the predictions of every member")
        if bool(self.val) == bool(self.threshold_file):
            if self.val:
                given = f"--threshold_file {self.threshold_file!r}"
                raise Mistake(f"{given}: t* would be chosen on --val; give one of them")
            raise Mistake(
                "expected either --val, on which t* is chosen, or --threshold_file with an earlier one"
            )
        if self.weights_file and not self.weighs or self.weighs and not (self.weights_file or self.val):
            raise Mistake(
                f"--combine {self.combine}, --weights_file {self.weights_file!r}: stack and stack_logit need "
                "--val or a --weights_file, and only they take one"
            )
        if self.calibrate != "none" and (self.calibration_file or not self.val):
            raise Mistake(
                f"--calibrate {self.calibrate}: is fitted on --val; give --calibration_file alone to use an "
                "earlier one"
            )
        if self.training_rate and not self.lens_rate:
            raise Mistake(
                f"--training_rate {self.training_rate:g}: goes with --lens_rate, the rate that is wanted"
            )
        if self.lens_rate and not (self.val or self.training_rate):
            raise Mistake(
                f"--lens_rate {self.lens_rate:g}: from which rate is not known without --val; give "
                "--training_rate"
            )
        if self.test_parameters and (not self.test or self.columns == "short"):
            raise Mistake(
                "--test_parameters: fills columns of the submission of --test, so not with --columns short"
            )

    @property
    def weighs(self) -> bool:
        return self.combine.startswith("stack")

    @property
    def fusion(self) -> str:  # of bands, in the space in which members are combined
        return "logit" if self.combine.endswith("logit") else "mean"


def warn(text: str) -> None:
    say(f"warning: {text}", "ensemble.py")


def rows_of(those: Members, decision: Decision, options: Config, keys=ROW) -> pd.DataFrame:
    """One row for each of `keys`: combined, bands fused, calibrated."""
    rows = those.fused(decision.combined(those.probs, those.paths), options.fusion, keys)
    return rows.assign(prob=decision.calibrated(rows["prob"]))


def settle(val: Members, options: Config, decision: Decision) -> Decision:
    """The decision, what was still open now fitted or chosen on validation: weights, calibration, then t*."""
    mean = (
        rows_of(val, decision, options)
        if decision.weights or not options.weighs
        else val.fused(predictions.combine_probabilities(val.probs, "mean"), "mean")
    )
    known = (mean["label"].notna() & mean["prob"].notna()).to_numpy()
    if not known.any():
        raise Mistake(
            f"--val: none of {len(mean)} rows has a label and a probability; t* needs labelled lenses and "
            "non-lenses: give predictions made with --which val"
        )
    if not known.all():
        warn(
            f"--val: {(~known).sum()} of {len(mean)} rows lack a label or a probability and have no say in t*"
        )
    label = mean["label"].to_numpy()[known].astype(int)
    objects = val.objects()[known]
    if options.weighs and not decision.weights:
        probs = val.by_row(options.fusion)[:, known]
        weights = dict(members=stacking.names_of(val.paths)) | stacking.fit_stack(
            options.combine, label, probs
        )
        weights["cross_validated"] = stacking.compare_stacks(
            options.combine, label, probs, mean["prob"].to_numpy()[known], objects, options.seed
        )
        print(stacking.stack_lines(weights))
        decision = decision._replace(weights=weights)
        if options.threshold_by == "conformal":  # a calibration keeps the order of objects and does no harm
            warn(
                "the weights and the conformal threshold are fitted to the same objects, so its guarantee "
                "holds only about: fit weights on other objects, and give --weights_file"
            )
    if options.calibrate != "none":
        raw = rows_of(val, decision, options)["prob"].to_numpy()[known]
        logit = predictions.logit(raw)
        decision = decision._replace(calibration=calibration.fit_calibration(options.calibrate, logit, label))
        held_out = calibration.out_of_fold(
            options.calibrate, logit, label, folds.deal_folds(objects, label, options.seed)
        )
        print(
            f"{options.calibrate} calibration, on objects held out ({folds.FOLDS} "
            f"folds)\n{calibration.calibration_lines(label, raw, held_out)}"
        )
    prob = rows_of(val, decision, options)["prob"].to_numpy()[known]
    threshold, promise = thresholds.choose_threshold(
        label, prob, options.threshold_by, options.alpha, options.delta
    )
    print(f"t* = {threshold!r} ({promise})")
    sets = (
        conformal.fit_conformal(label, prob, options.alpha, options.delta)
        if options.threshold_by == "conformal"
        else None
    )
    return decision._replace(threshold=threshold, sets=sets)


def shifted(val: Members | None, decision: Decision, options: Config) -> PriorShift:
    """How probabilities are brought to --lens_rate; what that means for t* is said."""
    rows = scores.labelled_rows(rows_of(val, decision, options)) if val else None
    shift = prior_shift(options.lens_rate, options.training_rate, None if rows is None else rows["label"])
    there = float(shift(decision.threshold))
    print(
        f"probabilities at a lens rate of {shift.lens_rate:g}, from {shift.training_rate:.4g}: t* is "
        f"{there!r} there, so what is called a lens is the same; the tables of --val and --test keep the "
        "rate of the training"
    )
    if rows is not None:
        label, prob = rows["label"].to_numpy(), rows["prob"].to_numpy()
        print(purity_line(label, prob, decision.threshold, shift.lens_rate))
    return shift


def submitted(
    test: Members, decision: Decision, options: Config, shift: PriorShift | None = None
) -> pd.DataFrame:
    """Every id once, in order of first appearance, with its answer and the other columns."""
    rows = rows_of(test, decision, options, ["id"])
    lost = rows["prob"].isna().to_numpy()
    if lost.any():
        first = ", ".join(rows["object"][lost][:3])
        text = f"{lost.sum()} of {len(rows)} ids have no probability (every file quarantined): {first}"
        if options.missing == "error":
            raise Mistake(f"{text}; mend those files, or --missing nonlens submits 0 for them")
        warn(f"{text}; submitted as 0")
    prob = rows["prob"].fillna(0.0).to_numpy()
    answer = shift(prob) * ~lost if shift else prob
    called = answer if options.submit == "prob" else ((prob >= decision.threshold) & ~lost).astype(np.int64)
    assert set(rows["object"]) == set(test.table["id"]), "an id is lost"
    inferred = (
        parameters.of_ids(
            options.test_parameters, partial(ids_of_parameters, test, options), rows["object"], warn
        )
        if options.test_parameters
        else None
    )
    return submission.submission_table(
        rows["object"], called, options.columns, options.fill, inferred, test.place
    )


def ids_of_parameters(test: Members, options: Config, table: pd.DataFrame, source: str) -> pd.Series:
    """The id of each row of a table of parameters (path), as the test files have them."""
    table = identity.known_rows(table, source)
    if "object" not in table and test.of_files:
        known = test.table.set_index("path")[["object", "band"]]
        if table["path"].isin(known.index).all():  # escaped already
            return members.ids_of(table.join(known, on="path"), test.level)
    if "object" not in table:
        table = identity.parsed_rows(table, source, warn)
    objects = submission.unharmed(table["object"], "object", options.escape, lambda _: None)
    return members.ids_of(table.assign(object=objects), test.level)


def write(name: str, those: Members, decision: Decision, options: Config, folder: Path) -> None:
    """The table of files, of objects if bands were fused, and of the uncertainty."""
    rows = rows_of(those, decision, options)
    prob = decision.combined(those.probs, those.paths)
    bands = those.level == "object"
    # t* does not hold for the raw prob of a band
    threshold = None if decision.calibration and bands else decision.threshold
    path = folder / f"{name}.csv"
    predictions.write_predictions(
        those.table.assign(prob=prob if bands else decision.calibrated(prob)), path, threshold
    )
    identity.write_identity(those.table, path)
    if bands:
        placed = rows if those.place is None else rows.join(those.place, on="object")
        predictions.write_predictions(
            placed, folder / f"{name.removesuffix('_labeled')}_objects.csv", decision.threshold
        )
    if options.uncertainty:
        from evaluation.uncertainty import ensemble_parts  # torch, seconds that other runs need not pay

        weights = decision.weights["weights"] if options.combine == "stack" else None
        parts = ensemble_parts(those.by_row(options.fusion), weights)
        table = pd.DataFrame(dict(id=rows["object"], domain=rows["domain"]) | parts._asdict())
        with files.whole(folder / f"uncertainty_{name.split('_')[0]}.csv") as temporary:
            (
                table.assign(set=conformal.conformal_sets(decision.sets, rows["prob"]))
                if decision.sets
                else table
            ).to_csv(temporary, index=False)


def main(argv: list[str]) -> None:
    (options,) = config.read_options(argv, Config)
    decision = read_decision(
        options.combine, options.weights_file, options.calibration_file, options.threshold_file, warn
    )
    folder = Path(options.out_dir)
    val = None
    test = None
    if options.val:
        val = members.read_members(options.val, options.match, options.id, warn, options.escape)
        decision = settle(val, options, decision)
    shift = shifted(val, decision, options) if options.lens_rate else None
    if options.test:
        test = members.read_members(options.test, options.match, options.id, warn, options.escape)
        sent = submitted(test, decision, options, shift)
    folder.mkdir(parents=True, exist_ok=True)
    if val:
        used = rows_of(test, decision, options) if test else None
        members.say_domains(rows_of(val, decision, options), used, warn)
        write_decision(decision, folder)
    by = (
        "Youden's J"
        if options.threshold_by == "youden"
        else f"conformal, alpha {options.alpha:g}, delta {options.delta:g}"
    )
    about = dict(
        combine=options.combine,
        calibration=(decision.calibration or {}).get("kind", "none"),
        bootstrap=options.bootstrap,
        seed=options.seed,
    )
    sheets: dict[str, scores.Scores] = {}
    for name, those, source in (
        ("val", val, by),
        ("test", test, "from --val" if val else f"from {options.threshold_file}"),
    ):
        if those is None:
            continue
        rows = rows_of(those, decision, options)
        labelled = len(scores.labelled_rows(rows)) > 0
        write(f"{name}_ens" + "_labeled" * (name == "test" and labelled), those, decision, options, folder)
        if labelled:
            sheets[name] = scores.score_table(rows, decision.threshold, True, options.bootstrap, options.seed)
            scores.write_scores(
                sheets[name],
                folder,
                f"{name}_ens",
                dict(members=those.paths, level=those.level, threshold=source) | about,
            )
    if test:
        if val:
            members.compare_members(val, test, warn)
        with files.whole(folder / options.submission) as temporary:
            sent.to_csv(temporary, index=False)
        answer = sent.iloc[:, 1]
        prob = options.submit == "prob"
        print(
            f"{folder / options.submission}: {len(sent)} ids, "
            + (
                f"a mean probability of {answer.mean():.6g}"
                if prob
                else f"of them lenses: {answer.sum():.6g}"
            )
        )
    for name, sheet in sheets.items():
        print(f"\n{scores.score_lines(sheet, name)}")
        for line in scores.inverted_lines(sheet):
            warn(f"{name}, {line}")


def console() -> None:
    """The command starloop-ensemble of an installed Starloop (pyproject.toml)."""
    config.run_script(main)


if __name__ == "__main__":
    console()
