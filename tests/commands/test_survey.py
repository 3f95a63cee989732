"""survey.py: whatever the tree, the number of tasks, and whenever they are killed,
each file has one row in the order of the input.
"""

import errno
import fcntl
import gzip
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import threading
import tracemalloc
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

import predict
import survey
from data import listing, parts
from data.cutouts import file_rows, store
from data.survey import plan as shards, predictions, proof
from tasks import lens
from tests.data.cutouts.test_store import template
from utils import checkpoint, config
from utils.mistake import Mistake

BAD = {
    "cut": lambda raw: raw[:9000],
    "empty": lambda raw: b"",
    "text": lambda raw: b"<html>" * 500,
    "gone": None,
    "nan": lambda raw: raw[:5784] + b"\x7f\xc0\0\0" + raw[5788:],
}


def cutout(path: Path, seed: int, spoil: str = "") -> None:
    """A file whose mean follows from `seed`; or one that cannot be read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = bytearray(template_bytes())
    raw[5784 : 5784 + 6724] = (
        (np.random.default_rng(seed).normal(size=1681) + seed % 7 - 3).astype(">f4").tobytes()
    )
    if spoil == "gone":
        path.symlink_to("nowhere.fits")
    else:
        path.write_bytes(BAD[spoil](bytes(raw)) if spoil else raw)


def template_bytes(cached=[]):  # noqa: B006  made once
    if not cached:
        cached.append(template())
    return cached[0]


def fill(folder: Path, objects: int, bands: str = "gr", bad: int = 0) -> list[str]:
    """So many objects; the paths in sorted order. Every `bad`-th file cannot be read."""
    paths = [folder / f"obj_{number:05d}_{band}.fits" for number in range(objects) for band in bands]
    for number, path in enumerate(paths):
        cutout(path, number, [*BAD][number % len(BAD)] if bad and number % bad == 0 else "")
    return [str(path) for path in paths]


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> dict[str, str]:
    """Checkpoints as train.py writes them, of random weights: a and b of single bands, stack, other sizes."""
    folder, made = tmp_path_factory.mktemp("networks"), {}
    for seed, (name, options) in enumerate(
        dict(a={}, b={}, stack=dict(band_mode="stack"), large=dict(image_size=64), red={}).items()
    ):
        torch.manual_seed(seed)
        task, bands = (
            lens.Config(model_size="atto", apply_normalization=True, **options),
            ["r"] if name == "red" else ["g", "r"],
        )
        model = lens.build_network(task, len(bands) if task.band_mode == "stack" else 1)
        with torch.no_grad():
            model.network.head.fc.weight.mul_(30)
        made[name] = str(folder / f"{name}.pt")
        record = dict(
            options=dict(task="lens", precision="fp32", **config.flat_options(task)), data=dict(bands=bands)
        )
        checkpoint.save(Path(made[name]), dict(record=record, model=model.state_dict()))
    return made


@pytest.fixture
def by_pixels(monkeypatch):
    """Instead of the network: the sigmoid of the mean of the pixels,
    so that a file's probability is known.
    """

    def ask(networks, tta, batch):
        shown = batch["image"].mean((2, 3)) * batch["present"]
        return dict(prob=(shown.sum(1) / batch["present"].sum(1)).sigmoid())

    monkeypatch.setattr(survey, "ask", ask)


def run(command: str, *options) -> None:
    survey.main([command, *map(str, options)])


def folder_of(out: Path) -> Path:
    (folder,) = (out / "predictions").iterdir()
    return folder


def rows_of(out: Path) -> pd.DataFrame:
    return pd.concat(
        [pq.read_table(path).to_pandas() for path in sorted(folder_of(out).glob("*.parquet"))],
        ignore_index=True,
    )


def start(command: str, *options, die_at: int = 0, locks: bool = True) -> multiprocessing.Process:
    """survey.py in a process of its own (forked: importing torch takes seconds), its parts and blocks small.

    It kills itself with SIGKILL when it is about to make a file durable, to rename or to remove for the
    `die_at`-th time.
    """

    def work():
        parts.PART, store.BLOCK_ROWS = 8, 8
        count = itertools.count(1)

        def dying(real):
            return lambda *arguments, **named: (
                os.kill(os.getpid(), signal.SIGKILL) if next(count) == die_at else real(*arguments, **named)
            )

        os.fsync, os.replace, shutil.rmtree = map(dying, (os.fsync, os.replace, shutil.rmtree))
        if not locks:
            fcntl.flock = mock.Mock(side_effect=OSError(errno.ENOLCK, "no locks"))
        run(command, *options)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def code(process: multiprocessing.Process) -> int:
    process.join()
    return process.exitcode


@pytest.mark.parametrize("seed", range(8))
def test_any_tree_gets_one_row_a_file_in_order(seed, tmp_path, networks, by_pixels):
    """Folders and manifests, links, comments, the same line twice, two files of one band, bad files,
    any size and number of parts.
    """
    dice = random.Random(seed)
    expected, spoiled, means, mode = [], {}, {}, dice.choice(["a", "stack"])
    for number in range(dice.randint(1, 30)):
        folder = tmp_path / "in" / f"tile_{number // 7}"
        for band in dice.sample("gr", dice.randint(1, 2)) + (["z"] if dice.random() < 0.1 else []):
            path, bad = (
                folder / f"obj_{number:03d}_{band}.fits",
                dice.choice([*BAD]) if dice.random() < 0.2 else "",
            )
            cutout(path, 100 * seed + len(expected), bad)
            expected.append(str(path))
            spoiled[str(path)] = bad
    if dice.random() < 0.5:
        source, expected = tmp_path / "in", sorted(expected)
    else:
        expected = list(
            itertools.chain.from_iterable([path] * dice.choice([1, 1, 1, 2]) for path in expected)
        )
        source = tmp_path / dice.choice(["manifest.txt", "manifest.txt.gz"])
        text = "# path\n\n" + "".join(
            f"{os.path.relpath(path, tmp_path) if dice.random() < 0.5 else path} \n" for path in expected
        )
        source.write_bytes(gzip.compress(text.encode()) if source.suffix == ".gz" else text.encode())
    out, size, parts = tmp_path / "S", dice.randint(1, 25), dice.randint(1, 4)
    run("plan", "--images", source, "--out", out, "--shard_size", size)
    for part in dice.sample(range(parts), parts):
        if dice.random() < 0.5:
            run("pack", "--out", out, "--part", part, "--parts", parts)
        run(
            "predict",
            "--out",
            out,
            "--part",
            part,
            "--parts",
            parts,
            "--model_path",
            networks[mode],
            "--device",
            "cpu",
        )
    run("reduce", "--out", out, "--model_path", networks[mode], "--csv")
    rows, summary = rows_of(out), json.loads((folder_of(out) / "summary.json").read_text())
    assert rows["path"].tolist() == expected
    for path, prob, reason in rows[["path", "prob", "reason"]].itertuples(index=False):
        assert np.isnan(prob) == bool(reason), path
        if spoiled[path]:
            assert reason and "is not among" not in reason
        elif path.endswith("_z.fits"):
            assert reason == "band z is not among g r"
        else:
            assert prob > 0
            means.setdefault(Path(path).name[:7], set()).add(prob)
    if mode == "stack":  # never cut apart: the bands of an object share what is said of it
        assert all(len(probs) == 1 for probs in means.values())
    else:
        good = rows[rows["reason"] == ""]
        numbers = {path: 100 * seed + number for number, path in enumerate(spoiled)}
        means = [
            (np.random.default_rng(numbers[path]).normal(size=1681) + numbers[path] % 7 - 3).mean()
            for path in good["path"]
        ]
        np.testing.assert_allclose(good["prob"], 1 / (1 + np.exp(-np.array(means))), atol=1e-5)
    assert (
        summary["files"]
        == len(expected)
        == summary["with_probability"] + sum(summary["without_probability"].values())
    )
    assert sum(summary["histogram"]) == summary["with_probability"]
    table = pd.read_csv(folder_of(out) / "pred.csv.gz", keep_default_na=False)
    assert table["path"].tolist() == expected and (table["pred"] == "").sum() == rows["prob"].isna().sum()
    objects = pd.read_csv(folder_of(out) / "objects.csv.gz", keep_default_na=False)
    assert objects.columns.tolist() == ["object", "prob", "pred", "bands", "reason"]
    assert objects["object"].is_unique and set(objects["object"]) == set(rows["id"])
    assert summary["objects"] == len(objects)
    fused = rows.groupby("id")["prob"].mean().reindex(objects["object"]).to_numpy()
    np.testing.assert_allclose(pd.to_numeric(objects["prob"]), fused, rtol=1e-6)
    assert ((objects["reason"] != "") == np.isnan(fused)).all()
    there = rows[rows["prob"].notna()].groupby("id")["band"].agg(set)
    expected_bands = [there.get(name, set()) for name in objects["object"]]
    assert [set(bands.split()) for bands in objects["bands"]] == expected_bands
    sizes = [count for count, _ in json.loads((out / "plan.json").read_text())["shards"]]
    assert all(count >= size for count in sizes[:-1]) and max(sizes) < size + 6


def test_the_mean_of_networks_is_that_of_their_predictions(tmp_path, networks):
    paths = fill(tmp_path / "in", 15, bad=7)
    each = []
    for name in "ab":
        predict.main(
            [
                "--model_path",
                networks[name],
                "--images",
                str(tmp_path / "in"),
                "--which",
                "all",
                "--store_dir",
                str(tmp_path / "stores"),
                "--device",
                "cpu",
                "--output_dir",
                str(tmp_path / name),
                "--tta",
            ]
        )
        each.append(pd.read_csv(tmp_path / name / "pred_all.csv").set_index("path")["prob"])
    run("plan", "--images", tmp_path / "in", "--out", tmp_path / "S", "--shard_size", 9)
    run(
        "predict",
        "--out",
        tmp_path / "S",
        "--model_path",
        networks["a"],
        networks["b"],
        "--device",
        "cpu",
        "--tta",
        "--batch_size",
        5,
    )
    run("reduce", "--out", tmp_path / "S", "--model_path", networks["a"], networks["b"], "--csv")
    rows = rows_of(tmp_path / "S")
    assert (
        rows.columns.tolist() == ["path", "id", "band", "prob", "pred", "reason", "prob_0", "prob_1"]
        and rows["path"].tolist() == paths
    )
    for number in range(2):
        np.testing.assert_allclose(rows[f"prob_{number}"], each[number][paths], atol=1e-6)
    np.testing.assert_allclose(rows["prob"], (each[0] + each[1])[paths] / 2, atol=1e-6)
    assert (
        rows["prob"].std() > 1e-3
        and set(rows["id"]) == {f"obj_{number:05d}" for number in range(15)}
        and set(rows["band"]) == {"g", "r"}
    )
    assert ((rows["prob"] >= 0.5) == (rows["pred"] == 1)).all()


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_any_time_the_same_command_ends_with_the_same_rows(seed, tmp_path, networks):
    fill(tmp_path / "in", 24, bad=11)
    whole, out, dice = tmp_path / "whole", tmp_path / "killed", random.Random(seed)
    argv = [
        "--model_path",
        networks["a"],
        "--device",
        "cpu",
        "--batch_size",
        "4",
        *dice.choice([["--discard_pixels"], []]),
    ]
    plan = ["plan", "--images", tmp_path / "in", "--shard_size", 30, "--out"]
    run(*plan, whole)
    run("predict", "--out", whole, *argv)
    name, codes = folder_of(whole).name, []
    for command in (
        [*plan, out],
        ["pack", "--out", out],
        ["predict", "--out", out, *argv],
        ["predict", "--out", out, *argv],
    ):
        codes.append(code(start(*command, die_at=dice.randint(1, 25 if command[0] == "predict" else 5))))
        if command[0] == "plan":
            run(*plan, out)
        if (
            not (out / "predictions" / name / "000001.parquet").exists()
            and (out / "predictions" / name / "settings.json").exists()
        ):
            with pytest.raises(Mistake, match="of 2 shards . are missing or damaged .*--parts 2 and --part "):
                run("reduce", "--out", out, "--model_path", networks["a"], "--parts", 2)
    assert set(codes) <= {0, -signal.SIGKILL} and codes.count(-signal.SIGKILL) >= 2
    run("predict", "--out", out, *argv)
    run("reduce", "--out", out, "--model_path", networks["a"])
    pd.testing.assert_frame_equal(rows_of(out), rows_of(whole), check_exact=False, rtol=1e-5)
    left = sorted(path.name for path in folder_of(out).iterdir())
    assert left == ["000000.parquet", "000001.parquet", "settings.json", "summary.json"]


def test_parts_of_another_size_are_not_taken_for_these(tmp_path, networks):
    """Another version of predict.py may cut a shard otherwise."""
    paths = fill(tmp_path / "in", 24)
    argv = ["--out", tmp_path / "S", "--model_path", networks["a"], "--device", "cpu", "--batch_size", "4"]
    run("plan", "--images", tmp_path / "in", "--out", tmp_path / "S")
    run("pack", "--out", tmp_path / "S")
    assert code(start("predict", *argv, die_at=2 + 2 * 3)) == -signal.SIGKILL
    run("predict", *argv)
    run("reduce", *argv[:4])
    assert rows_of(tmp_path / "S")["path"].tolist() == paths and rows_of(tmp_path / "S")["prob"].notna().all()


def test_a_shard_goes_on_at_the_part_where_it_was_killed(tmp_path, networks, monkeypatch):
    fill(tmp_path / "in", 24)
    argv = ["--out", tmp_path / "S", "--model_path", networks["a"], "--device", "cpu", "--batch_size", "4"]
    run("plan", "--images", tmp_path / "in", "--out", tmp_path / "S")
    run("pack", "--out", tmp_path / "S")
    # one fsync and one rename for settings.json and each part
    assert code(start("predict", *argv, die_at=2 + 2 * 4)) == -signal.SIGKILL
    assert len(list(folder_of(tmp_path / "S").glob("*.parts/*/*.npz"))) == 3
    asked, real = [], parts.read_shares
    monkeypatch.setattr("data.parts.PART", 8)
    monkeypatch.setattr(
        parts,
        "read_shares",
        lambda data, shares, *rest: real(data, (asked.extend(share) or share for share in shares), *rest),
    )
    run("predict", *argv)
    assert asked == list(range(24, 48))


@pytest.mark.parametrize("locks", [True, False])
def test_two_tasks_on_one_shard_do_no_harm(locks, tmp_path, networks, monkeypatch):
    one_at_a_time, read = threading.Lock(), config.read_options

    # tasks are processes; in threads, ast.parse of Python 3.11 trips over itself
    def read_alone(*arguments, **named):
        with one_at_a_time:
            return read(*arguments, **named)

    monkeypatch.setattr(config, "read_options", read_alone)
    paths = fill(tmp_path / "in", 20, bad=13)
    out = tmp_path / "S"
    run("plan", "--images", tmp_path / "in", "--out", out)
    argv = [
        "--out",
        out,
        "--model_path",
        networks["a"],
        "--device",
        "cpu",
        "--batch_size",
        4,
        "--discard_pixels",
    ]
    if locks:
        trouble = []

        def task():
            try:
                run("predict", *argv)
            except BaseException as error:
                trouble.append(error)

        threads = [threading.Thread(target=task) for _ in range(3)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert not trouble
    else:
        run("pack", "--out", out)
        tasks = [start("predict", *argv[:-1], locks=False) for _ in range(2)]
        assert [code(each) for each in tasks] == [0, 0]
    run("reduce", "--out", out, "--model_path", networks["a"])
    assert rows_of(out)["path"].tolist() == paths
    assert (out / "stores/000000").exists() != locks  # discarded


@pytest.fixture
def predicted(tmp_path, networks, by_pixels):
    """A survey of 4 shards, predicted."""
    paths = fill(tmp_path / "in", 14)
    run("plan", "--images", tmp_path / "in", "--out", tmp_path / "S", "--shard_size", 7)
    run("predict", "--out", tmp_path / "S", "--model_path", networks["a"], "--device", "cpu")
    return (
        tmp_path / "S",
        folder_of(tmp_path / "S"),
        paths,
        ["reduce", "--out", tmp_path / "S", "--model_path", networks["a"], "--parts", 3],
    )


def test_what_is_missing_or_damaged_is_named_and_predicted_again(predicted, networks):
    out, folder, paths, argv = predicted
    run(*argv)
    good = (folder / "000002.parquet").read_bytes()
    (folder / "000001.parquet").unlink()
    (folder / "000002.parquet").write_bytes(good[:-700] + bytes(100) + good[-600:])
    (folder / "000003.parquet").write_bytes(good)  # a whole file, but of another shard
    with pytest.raises(
        Mistake,
        match=r"of 4 shards 3 are missing or damaged "
        r"\(000001 missing; 000002 damaged: .*; 000003 damaged: .*of its list\)"
        r".*--parts 3 and --part 0-2",
    ):
        run(*argv, "--csv")
    assert not (folder / "pred.csv.gz").exists() and not (folder / "summary.json").exists()
    run("predict", "--out", out, "--model_path", networks["a"], "--device", "cpu")
    run(*argv)
    assert rows_of(out)["path"].tolist() == paths
    shutil.copy(folder / "000003.parquet", folder / "000004.parquet")
    with pytest.raises(Mistake, match="holds 000004.parquet, which is no shard of this plan"):
        run(*argv)


def test_rows_that_are_lost_doubled_or_turned_are_found(predicted):
    out, folder, paths, argv = predicted
    path = folder / "000001.parquet"
    rows, record = predictions.read_predictions(path, 1)
    expected = proof.hashes_of_paths(rows["path"])
    for order, why in (
        ([*range(8), 7], "its 9 paths"),
        (range(7), "its 7 paths"),
        ([*range(7), 6], "its 8 paths"),
        ([1, 0, *range(2, 8)], "row 0 is not"),
    ):
        spoiled = rows.take(list(order))
        predictions.write_predictions(path, spoiled, record | dict(files=len(spoiled)))
        with pytest.raises(predictions.Damaged, match=why):
            proof.check_predictions(*predictions.read_predictions(path, 1), expected, {})
    proof.check_predictions(rows, record, expected, {})


def test_a_flipped_bit_is_never_believed(predicted):
    _, folder, _, _ = predicted
    path = folder / "000001.parquet"
    good, content = predictions.read_predictions(path, 1), path.read_bytes()
    dice = random.Random(0)
    for _ in range(300):
        at = dice.randrange(len(content))
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << dice.randrange(8)]) + content[at + 1 :])
        try:
            rows, record = predictions.read_predictions(path, 1)
        except predictions.Damaged:
            continue
        # a bit that says nothing, such as the writer's name
        assert rows.equals(good[0]) and record == good[1], at


def test_a_second_time_is_free_and_another_plan_is_refused(predicted, monkeypatch, networks, capsys):
    out, folder, paths, argv = predicted
    for module, name in (
        (listing, "walk_folders"),
        (shards, "cut_between_objects"),
        (shards.store, "pack_cutouts"),
        (survey, "predict_shard"),
    ):
        monkeypatch.setattr(module, name, None)  # whoever works now fails
    images = str(out.parent / "in")
    run("plan", "--images", images, "--out", out, "--shard_size", 7)
    run("pack", "--out", out)
    run("predict", "--out", out, "--model_path", networks["a"], "--device", "cpu")
    run("reduce", "--out", out)
    assert json.loads((out / "stores.json").read_text())["good"] == 28
    assert "4 shards are predicted, 4 of them before" in capsys.readouterr().out
    manifest = out.parent / "manifest.txt"
    manifest.write_text("in/obj_00000_g.fits\n")
    for options, message in (
        (["--shard_size", 8], f"--shard_size: got 8, but {out} was planned with 7"),
        (["--image_size", 64], "got 64, but"),
        (["--images", manifest], f"--images: got '{manifest}', but {out} was planned with '{images}'"),
    ):
        with pytest.raises(Mistake, match=message):
            run(
                "plan",
                "--out",
                out,
                *(["--images", images] if "--images" not in options else []),
                *(["--shard_size", 7] if "--shard_size" not in options else []),
                *options,
            )
    for options, message in (
        (["--tta"], "--tta: got True, but .* was begun with False"),
        (["--threshold", 0.4], "--threshold: got 0.4, but"),
        (["--precision", "bf16"], r"--precision: got \['bf16'\], but"),
    ):
        with pytest.raises(Mistake, match=message):
            run("predict", "--out", out, "--model_path", networks["a"], "--device", "cpu", *options)


def test_a_manifest_that_changed_is_refused_and_an_interrupted_plan_is_made_again(tmp_path, monkeypatch):
    fill(tmp_path / "in", 3)
    manifest, argv = (
        tmp_path / "m.txt",
        ["--images", tmp_path / "m.txt", "--out", tmp_path / "S", "--shard_size", 2],
    )
    manifest.write_text(
        "in/obj_00000_g.fits\nin/obj_00001_g.fits\nin/obj_00002_g.fits\nin/obj_00002_r.fits\n"
    )
    with monkeypatch.context() as patch:
        patch.setattr(
            shards,
            "content_digest",
            lambda text, real=shards.content_digest: real(text) if b"00002" not in text else 1 / 0,
        )
        with pytest.raises(ZeroDivisionError):
            run("plan", *argv)
    with pytest.raises(Mistake, match="holds no plan"):
        run("pack", "--out", tmp_path / "S")
    run("plan", *argv)
    assert [count for count, _ in shards.open_survey(tmp_path / "S").plan["shards"]] == [2, 2]
    manifest.write_text("in/obj_00000_g.fits\n")
    with pytest.raises(Mistake, match="is 20 bytes of .*, but was 80 bytes of .* when"):
        run("plan", *argv)
    (tmp_path / "S/shards/000001.txt.gz").write_bytes(gzip.compress(b"/another\n"))
    with pytest.raises(Mistake, match="000001.txt.gz is not what was planned"):
        run("pack", "--out", tmp_path / "S")


def test_memory_of_the_plan_does_not_grow(tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "LINES", 1000)
    peaks = []
    for count in (5_000, 25_000):
        manifest = tmp_path / f"{count}.txt"
        manifest.write_text(
            "".join(
                f"/survey/tile_{number // 1000:06d}/obj_{number // 5:010d}_{'girzy'[number % 5]}.fits\n"
                for number in range(count)
            )
        )
        tracemalloc.start()
        run("plan", "--images", manifest, "--out", tmp_path / f"S{count}", "--shard_size", 1250)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (
        shards.open_survey(tmp_path / "S25000").plan["files"] == 25_000
        and len(shards.open_survey(tmp_path / "S25000")) == 20
    )
    assert peaks[1] < 1.1 * peaks[0] + 2e4, peaks


def test_an_object_on_both_sides_of_a_cut_is_noticed(tmp_path, networks, by_pixels, capsys):
    fill(tmp_path / "in", 4)
    manifest = tmp_path / "by_band.txt"
    manifest.write_text("".join(f"in/obj_{number:05d}_{band}.fits\n" for band in "gr" for number in range(4)))
    run("plan", "--images", manifest, "--out", tmp_path / "S", "--shard_size", 4)
    assert "warning: objects ('obj_00000', 4 in all) have files in shards 0 and 1" in capsys.readouterr().err
    run("predict", "--out", tmp_path / "S", "--model_path", networks["a"], "--device", "cpu")
    with pytest.raises(
        Mistake,
        match=r"objects \('obj_00000', 4 in all\) have files in shards 0 and 1: sort the manifest by object",
    ):
        run("predict", "--out", tmp_path / "S", "--model_path", networks["stack"], "--device", "cpu")


def test_a_shard_without_one_good_file_is_done_like_any_other(tmp_path, networks, by_pixels, capsys):
    for number, kind in enumerate(BAD):
        cutout(tmp_path / f"in/a_{number}_g.fits", number, kind)
    fill(tmp_path / "in", 3)
    run("plan", "--images", tmp_path / "in", "--out", tmp_path / "S", "--shard_size", 5)
    run("pack", "--out", tmp_path / "S")
    run("pack", "--out", tmp_path / "S")
    assert capsys.readouterr().err.count("shard 0: none of its 5 files can be used") == 1
    run("reduce", "--out", tmp_path / "S")
    assert json.loads((tmp_path / "S/stores.json").read_text()) | dict(shards=[]) == dict(
        files=11, good=6, quarantined=5, shape=[41, 41], shards=[]
    )
    for name in (["a"], ["stack"], ["a", "b"]):
        argv = ["--out", tmp_path / "S", "--model_path", *(networks[each] for each in name)]
        run("predict", *argv, "--device", "cpu", "--discard_pixels")
        run("reduce", *argv)
    summaries = [json.loads(path.read_text()) for path in (tmp_path / "S").glob("predictions/*/summary.json")]
    assert len(summaries) == 3
    for summary in summaries:
        assert summary["with_probability"] == 6 and summary["without_probability"] == {
            "truncated": 1,
            "empty file": 1,
            "not a FITS file (does not begin with SIMPLE)": 1,
            "cannot be opened": 1,
            "N of N pixels are not finite (NaN, infinite, blank or beyond floatN)": 1,
        }


def test_a_damaged_store_is_not_predicted(tmp_path, networks):
    fill(tmp_path / "in", 3)
    run("plan", "--images", tmp_path / "in", "--out", tmp_path / "S")
    run("pack", "--out", tmp_path / "S")
    with open(tmp_path / "S/stores/000000/pixels.npy", "r+b") as file:
        file.seek(9000)
        file.write(b"\1")
    with pytest.raises(Mistake, match="differ from their checksum"):
        run("predict", "--out", tmp_path / "S", "--model_path", networks["a"], "--device", "cpu")


def test_an_answer_that_is_not_finite_has_a_reason(tmp_path, networks, monkeypatch):
    fill(tmp_path / "in", 3)
    run("plan", "--images", tmp_path / "in", "--out", tmp_path / "S")
    monkeypatch.setattr(
        survey,
        "ask",
        lambda networks, tta, batch: dict(prob=torch.where(batch["index"] == 4, torch.nan, 0.25)),
    )
    run("predict", "--out", tmp_path / "S", "--model_path", networks["a"], "--device", "cpu")
    run("reduce", "--out", tmp_path / "S", "--model_path", networks["a"])
    assert rows_of(tmp_path / "S")["reason"].tolist() == ["", "", "", "", file_rows.NOT_FINITE, ""]


@pytest.mark.parametrize("name", shards.ARRAY_INDEX)
def test_parts_and_ranks_share_all_shards(name, monkeypatch):
    for other in shards.ARRAY_INDEX:
        monkeypatch.delenv(other, raising=False)
    taken = []
    for part, rank in itertools.product(range(3), range(2)):
        for variable, value in ((name, part), ("RANK", rank), ("WORLD_SIZE", 2)):
            monkeypatch.setenv(variable, str(value))
        assert shards.share_of_shards(20, -1, 3) == shards.share_of_shards(20, part, 3)
        taken += shards.share_of_shards(20, -1, 3)
    assert sorted(taken) == list(range(20))
    monkeypatch.setenv(name, "7")
    with pytest.raises(Mistake, match=rf"\${name} 7 of --parts 3: expected a part from 0 to 2"):
        shards.share_of_shards(20, -1, 3)


@pytest.mark.parametrize(
    "argv,message",
    [
        (["cut"], "--command: got 'cut', expected one of plan, pack, predict, reduce"),
        (["plan", "--images", "x"], "--out: expected the folder"),
        (["plan", "--out", "S"], "--images '', --shard_size 1000000"),
        (["plan", "--out", "S", "--images", "nowhere"], "--images 'nowhere' does not exist"),
        (["plan", "--out", "S", "--images", "x.fits"], "is one FITS file"),
        (["plan", "--out", "S", "--images", "empty.txt"], "holds no cutout"),
        (["plan", "--out", "S", "--images", "binary.txt"], "cannot be read as a manifest|is no line of text"),
        (["pack", "--out", "S"], "'S' holds no plan"),
        (
            ["plan", "--out", "S", "--images", "nowhere", "--shard-sise", "3"],
            "--shard_sise: no such option (did you mean 'shard_size'?)",
        ),
        (
            ["pack", "--out", "P", "--part", "3", "--parts", "3"],
            "--part 3 of --parts 3: expected a part from 0 to 2",
        ),
        (["pack", "--out", "P", "--parts", "3"], "or the array index of a scheduler"),
        (["reduce", "--out", "P"], "of 1 shards 1 are not packed"),
        (["predict", "--out", "P"], "--model_path: expected a checkpoint, or several"),
        (["reduce", "--out", "P", "--model_path", "a"], "nothing of P"),
        (["predict", "--out", "P", "--model_path", "nowhere.pt"], "there is no file 'nowhere.pt'"),
        (["predict", "--out", "P", "--model_path", "a", "stack"], "stack.pt takes band_mode 'stack', but"),
        (["predict", "--out", "P", "--model_path", "a", "red"], "takes bands ['r'], but"),
        (
            ["predict", "--out", "P", "--model_path", "large"],
            "takes image_size 64, but P was planned with 41",
        ),
        (
            ["predict", "--out", "P", "--model_path", "a", "--batch_size", "0"],
            "--batch_size: got 0, expected at least 1",
        ),
    ],
)
def test_mistakes_are_said_in_one_line(argv, message, tmp_path, networks, monkeypatch):
    for name in shards.ARRAY_INDEX:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "in", 1)
    (tmp_path / "x.fits").write_bytes(b"")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\0\0" * 9)
    run("plan", "--images", "in", "--out", "P")
    with pytest.raises(Mistake) as caught:
        run(*(networks.get(word, word) for word in argv))
    assert any(part in str(caught.value) for part in message.split("|")) and "\n" not in str(caught.value)
