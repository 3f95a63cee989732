"""Average the predictions of many seeds, choose the threshold on validation, write the submission.

    python ensemble.py --val s42/pred_val.csv s101/pred_val.csv --test s42/pred_test.csv s101/pred_test.csv --out_dir ens
    python ensemble.py --test s42/pred_test.csv s101/pred_test.csv --threshold_file ens/threshold.txt --out_dir ens_test

1. The members' probabilities of each file are averaged (--combine): val_ens.csv, and test_ens.csv, or
   test_ens_labeled.csv if the test files have labels; one row a file, pred = 1 if prob >= t*.
2. The bands of an object are fused (--id): the mean of their probabilities, or of logits with --combine logit:
   val_ens_objects.csv, test_ens_objects.csv.
3. t* is Youden's threshold on validation alone, at the level that is submitted (objects, if bands were fused), since a
   mean of five bands is spread otherwise than one band: threshold.txt, metrics_val_ens.json (global.threshold).
4. submission.csv: every id once, called a lens if prob >= t*.
"""
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from data.buckets import parse_name
from utils import config, figures_of_merit, files, predictions, scores
from utils.config import several
from utils.mistake import Mistake

REQUEST = ("id,preds,RA,Dec,zlens,vel disp,ell_m,ell_m_PA,sh,sh_PA,Rein,ell_l,ell_l_PA,Reff_l,n_l_sers,mag_lens_g,mag_lens_r,"
           "mag_lens_i,mag_lens_z,mag_lens_y,zsrc,srcx,srcy,mag_src_g,mag_src_r,mag_src_i,mag_src_z,mag_src_y,ell_s,ell_s_PA,"
           "Reff_s,n_s_sers")
# the challenge's own submission_format.csv
OFFICIAL = ("id,preds,ra,dec,zlens,mag_lens_g,mag_lens_r,mag_lens_i,mag_lens_z,mag_lens_y,ell_l,ell_l_PA,Rein,vel disp,sh,sh_PA,"
            "srcx,srcy,mag_src_g,mag_src_r,mag_src_i,mag_src_z,mag_src_y,zsrc,ell_s,ell_s_PA,Reff_s,n_s_sers,ell_m,ell_m_PA,"
            "Reff_l,n_l_sers,vel_disp,RA,Dec,mag_object_g,mag_object_r,mag_object_i,mag_object_z,mag_object_y,z_central")
SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")      # cannot be a formula in a spreadsheet, nor break a CSV line


@dataclass(frozen=True)
class Config:
    val: list[str] = several()       # predictions of the validation files, one CSV a member
    test: list[str] = several()      # predictions of the test files, one CSV a member
    out_dir: str = "./ensemble"      # where the outputs go
    match: Literal["auto", "path", "name"] = "auto"    # members are matched by path or file name; auto: name if paths differ
    combine: Literal["mean", "logit", "median"] = "mean"    # of the members: mean of probabilities, of logits, or median
    id: Literal["auto", "object", "stem"] = "auto"    # what is judged and submitted; auto: object if files are its bands
    threshold_file: str = ""         # an earlier threshold.txt, instead of choosing t* on --val
    fill: int = -99                  # value of the columns that are not predicted; the challenge's own is -999
    columns: Literal["request", "official", "short"] = "request"    # 32 columns, the challenge's 41, or id and prediction
    submit: Literal["label", "prob"] = "label"    # 0 or 1, or the probability
    missing: Literal["nonlens", "error"] = "nonlens"    # an object without any probability is submitted as 0, or refused
    submission: str = "submission.csv"    # its file name within --out_dir
    bootstrap: int = 1000            # replicates behind the 95 % intervals; 0 = none
    seed: int = 42                   # of the bootstrap

    def __post_init__(self):
        if not self.val and not self.test:
            raise Mistake("expected --val and --test, with the predictions of every member")
        if bool(self.val) == bool(self.threshold_file):
            raise Mistake("expected either --val, on which t* is chosen, or --threshold_file with an earlier one" if not self.val
                          else f"--threshold_file {self.threshold_file!r}: t* would be chosen on --val; give one of them")
        if self.bootstrap < 0 or self.seed < 0:
            raise Mistake(f"--bootstrap {self.bootstrap}, --seed {self.seed}: expected numbers >= 0")


def warn(text: str) -> None:
    print(f"ensemble.py: warning: {text}", file=sys.stderr)


def assemble(members: list[str], options: Config) -> tuple[pd.DataFrame, str]:
    """One row a file: path, domain, label, the members' combined prob, and id (object or stem); and which of these it is."""
    table, probs, match = predictions.aligned(members, options.match)
    if options.match == "auto" and match == "name":
        print(f"{members[0]} and others: paths differ, so files are matched by name")
    for i in range(1, len(members)):
        if np.array_equal(probs[i], probs[0], equal_nan=True):
            warn(f"{members[i]} and {members[0]} hold the same probabilities: is it the same seed?")
    if some := int((np.isnan(probs).any(0) & ~np.isnan(probs).all(0)).sum()):
        warn(f"{some} files have no probability in some members: the others decide")
    names = [parse_name(path) for path in table["path"]]
    objects = np.array([name for name, _ in names], dtype=object)
    banded = np.array([band != "" for _, band in names])
    level = options.id
    if level == "auto":
        level = "object" if pd.Series(objects[banded]).duplicated().any() else "stem"
    stems = [f"{name}_{band}" if band else name for name, band in names]
    table = table.assign(prob=predictions.combined(probs, options.combine), id=objects if level == "object" else stems)
    twice = pd.Series(stems).duplicated()
    if twice.any():
        warn(f"{twice.sum()} files have a name that occurs before, first {stems[int(twice.argmax())]!r}; "
             f"the challenge has such ids: they are one {level} in the submission")
    return table, level


def judged(table: pd.DataFrame, options: Config) -> pd.DataFrame:
    """One row for each id: what is judged. Namesakes with another domain or label stay apart, as in training."""
    return predictions.fused(table, ["id", "domain", "label"], options.combine)


def choose(val: pd.DataFrame) -> float:
    """t*: Youden's threshold on the validation table."""
    known = scores.known(val)
    if not len(known):
        raise Mistake(f"--val: none of {len(val)} rows has a label and a probability; t* needs labelled lenses and non-lenses: "
                      "give predictions made with --which val")
    if len(known) < len(val):
        warn(f"--val: {len(val) - len(known)} of {len(val)} rows lack a label or a probability and have no say in t*")
    threshold, j = figures_of_merit.youden(known["label"], known["prob"])
    print(f"t* = {threshold!r} (Youden's J = {j:.4f} on {len(known)} rows of --val)")
    return threshold


def submission(table: pd.DataFrame, threshold: float, options: Config) -> pd.DataFrame:
    """Every id once, in order of first appearance, with its prediction and the filled columns."""
    rows = predictions.fused(table, ["id"], options.combine)
    unsafe = [name for name in rows["path"] if not SAFE.fullmatch(name)]
    if unsafe:
        raise Mistake(f"{len(unsafe)} ids cannot be submitted, first {unsafe[0]!r}: a spreadsheet may run them or a reader break on "
                      "them; rename those files so that names begin with a letter or digit and hold only these and . _ -")
    lost = rows["prob"].isna().to_numpy()
    if lost.any():
        text = f"{lost.sum()} of {len(rows)} ids have no probability (every file quarantined): {', '.join(rows['path'][lost][:3])}"
        if options.missing == "error":
            raise Mistake(f"{text}; mend those files, or --missing nonlens submits 0 for them")
        warn(f"{text}; submitted as 0")
    prob = rows["prob"].fillna(0.0).to_numpy()
    called = prob if options.submit == "prob" else ((prob >= threshold) & ~lost).astype(np.int64)
    columns = dict(request=REQUEST, official=OFFICIAL, short=f"id,{'prob' if options.submit == 'prob' else 'preds'}")[options.columns]
    first, second, *rest = columns.split(",")
    out = pd.DataFrame({first: rows["path"].to_numpy(), second: called})
    assert out[first].is_unique and set(out[first]) == set(table["id"]), "an id is lost or doubled"
    return pd.concat([out, pd.DataFrame(options.fill, index=out.index, columns=rest)], axis=1)


def write_tables(table: pd.DataFrame, rows: pd.DataFrame, name: str, threshold: float, level: str, folder: Path) -> None:
    """The table of files, and of objects if bands were fused."""
    predictions.write(table, folder / f"{name}.csv", threshold)
    if level == "object":
        predictions.write(rows, folder / f"{name.removesuffix('_labeled')}_objects.csv", threshold)


def main(argv: list[str]) -> None:
    options, = config.read(argv, Config)
    folder = Path(options.out_dir)
    sheets: dict[str, scores.Scores] = {}
    about = dict(combine=options.combine, bootstrap=options.bootstrap, seed=options.seed)
    if options.val:
        val, val_level = assemble(options.val, options)
        val_rows = judged(val, options)
        threshold = choose(val_rows)
    else:
        threshold = scores.read_threshold(options.threshold_file)
    if options.test:
        test, level = assemble(options.test, options)
        test_rows = judged(test, options)
        sent = submission(test, threshold, options)
    folder.mkdir(parents=True, exist_ok=True)
    if options.val:
        write_tables(val, val_rows, "val_ens", threshold, val_level, folder)
        with files.whole(folder / "threshold.txt") as temporary:
            temporary.write_text(f"{threshold!r}\n")
        sheets["val"] = scores.score(val_rows, threshold, True, options.bootstrap, options.seed)
        scores.write(sheets["val"], folder, "val_ens", dict(members=options.val, level=val_level, threshold="Youden's J") | about)
    if options.test:
        if options.val and len(options.val) != len(options.test):
            warn(f"t* is chosen with {len(options.val)} members and used for {len(options.test)}: a mean of fewer spreads wider")
        if options.val and level != val_level:
            warn(f"t* is chosen on one row per {val_level} and used on one row per {level}: give both sets with the same bands, or --id")
        if options.val and (shared := len(set(val["id"]) & set(test["id"]))):
            warn(f"{shared} ids are in --val and in --test: figures of test are optimistic for them")
        labelled = len(scores.known(test_rows)) > 0
        write_tables(test, test_rows, "test_ens_labeled" if labelled else "test_ens", threshold, level, folder)
        if labelled:
            sheets["test"] = scores.score(test_rows, threshold, True, options.bootstrap, options.seed)
            given = "--val" if options.val else options.threshold_file
            scores.write(sheets["test"], folder, "test_ens", dict(members=options.test, level=level, threshold=f"from {given}") | about)
        with files.whole(folder / options.submission) as temporary:
            sent.to_csv(temporary, index=False)
        kind = "a mean probability of" if options.submit == "prob" else "of them lenses:"
        print(f"{folder / options.submission}: {len(sent)} ids, {kind} {sent.iloc[:, 1].mean() if options.submit == 'prob' else sent.iloc[:, 1].sum():.6g}")
    for name, sheet in sheets.items():
        print(f"\n{scores.lines(sheet, name)}")


if __name__ == "__main__":
    config.run(main)
