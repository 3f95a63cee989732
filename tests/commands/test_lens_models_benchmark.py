"""The benchmarks of the lens networks, a small size of each: they run, go on where they stopped,
and count right.
"""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from evaluation import predictions
from tests.conftest import ROOT
from utils.mistake import Mistake

sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "benchmarks" / "lens")]

import lens_models  # noqa: E402
import lens_physics  # noqa: E402
import lens_quantities  # noqa: E402
import lens_robustness  # noqa: E402
import slacs_rings  # noqa: E402

BENCHMARKS = (lens_models, lens_physics, lens_quantities, lens_robustness, slacs_rings)


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture
def here(monkeypatch, challenge, work) -> tuple[list[str], list[str]]:
    """(the flags of a small size, the scripts that are called): in this process, which has imported all."""
    called: list[str] = []

    def script(log, name, *argv):
        called.append(name)
        importlib.import_module(name.removesuffix(".py")).main([str(word) for word in argv])
        return 60.0

    monkeypatch.setattr("utils.stop.signal.signal", lambda *_: None)
    monkeypatch.setattr(lens_models, "script", script)
    monkeypatch.setattr(slacs_rings, "script", script)
    return ["--work", str(work), "--data", str(challenge), "--bands", "g", "r", "--epochs", "1"], called


def test_a_small_size_of_the_table(here, work, capsys):
    flags, called = here
    flags = [*flags, "--only", "robust_resnet,pinn_lens", "--seeds", "42"]
    lens_models.main([*flags, "--table_only"])
    assert "no run has finished" in capsys.readouterr().out and not called
    lens_models.main(flags)
    table = capsys.readouterr().out
    assert [
        table.count(name)
        for name in ("robust_resnet, seed 42", "pinn_lens, seed 42", "all 2, mean", "all 2, stack")
    ] == [1] * 4
    assert "a network: best accuracy" in table and called.count("train.py") == 2
    assert json.loads((work / "robust_resnet_e1_s42" / "cost.json").read_text())["minutes"] == 1
    called.clear()
    lens_models.main([*flags, "--table_only"])
    assert not called and capsys.readouterr().out.endswith(table.split("test objects")[1])


def test_the_calibration_is_chosen_on_validation(here, tmp_path):
    """Probabilities of three times the true logits: by the likelihood, a temperature is enough."""
    random, member = np.random.default_rng(0), tmp_path / "member"
    member.mkdir()
    for which, count in (("val", 3000), ("test", 4000)):
        logit = random.normal(size=count) * 2
        label = (random.random(count) < predictions.sigmoid(logit)).astype(int)
        names = [f"D{1 + i % 2}_{'NL'[label[i]]}_{which}{i:06d}_g.fits" for i in range(count)]
        pd.DataFrame(
            dict(
                path=names,
                domain=np.where(np.arange(count) % 2, "hsc", "slsim"),
                label=label,
                prob=predictions.sigmoid(3 * logit),
            )
        ).to_csv(member / f"pred_{which}.csv", index=False)
    figures = lens_models.judged([member], tmp_path / "judged")
    assert figures["kind"] in ("temperature", "vector")
    assert figures["ece_after"] < 0.03 < figures["global"]["ece"] and set(figures) >= {
        "domain::slsim",
        "domain::hsc",
    }
    fitted = json.loads((tmp_path / "judged" / figures["kind"] / "calibration.json").read_text())
    assert fitted.get("temperature", 1 / fitted.get("slope", 1)) == pytest.approx(3, rel=0.1)


def test_a_small_size_of_the_physics(here, capsys):
    lens_physics.main([*here[0], "--only", "pinn_lens", "--seeds", "1", "2"])
    said = capsys.readouterr().out
    assert said.count("pinn_lens, plain") == said.count("pinn_lens, physics") == 1


def test_a_small_size_of_the_quantities(here, capsys):
    lens_quantities.main([*here[0], "--only", "pinn_lens,robust_resnet"])
    said = capsys.readouterr().out
    assert said.count("Einstein radius: median relative error") == 2 and "robust_resnet, seed 42" in said


def test_a_small_size_of_robustness(here, work, capsys):
    lens_robustness.main(
        [*here[0], "--attacked", "8", "--radii_linf", "0.1", "--at_l2", "1", "--at_linf", "1"]
    )
    said = capsys.readouterr().out
    for row in (
        "all metadata missing, seed 42",
        "--adversarial linf, radius 0.1, seed 42",
        "labels of slsim, --domain_adversarial, seed 42",
    ):
        assert said.count(row) == 1
    known, unknown = (
        lens_robustness.store.open_store(work / f"store_{name}") for name in ("known", "unknown")
    )
    assert known.metadata["line_snr"].isna().mean() == pytest.approx(0.3, abs=0.2)
    assert unknown.metadata[lens_robustness.COLUMNS].isna().to_numpy().all()
    assert torch.equal(
        torch.from_numpy(known.read(np.arange(3))), torch.from_numpy(unknown.read(np.arange(3)))
    )


def test_a_small_size_of_the_rings(here, shared_data, capsys):
    # one band, under the name of which the real images are given
    flags = [word for word in here[0] if word != "g"]
    slacs_rings.main([*flags, "--slacs", str(shared_data("lens/slacs_hst"))])
    said = capsys.readouterr().out
    assert "SDSSJ0029-0055" in said and "0.966 -0.037 +0.035" in said and "all: 7" in said


def test_a_script_is_timed_and_its_last_words_are_passed_on(tmp_path):
    (tmp_path / "good.py").write_text("import time\nwhile time.process_time() < 0.3: pass\n")
    (tmp_path / "bad.py").write_text("import sys\nprint('first')\nsys.exit('bad.py: no such thing')\n")
    assert 0.25 < lens_models.script(tmp_path / "run" / "log", tmp_path / "good.py") < 3
    with pytest.raises(Mistake, match="ended with 1: bad.py: no such thing"):
        lens_models.script(tmp_path / "run" / "log", tmp_path / "bad.py")


@pytest.mark.parametrize("module", BENCHMARKS)
def test_wrong_names_are_one_line(module):
    flag = dict(lens_robustness="--parts", slacs_rings="--tat").get(module.__name__, "--only")
    with pytest.raises(Mistake, match=flag):
        module.main([flag, "resnet"])


def test_false_positives_at_completeness(tmp_path):
    # nine of ten lenses: down to 0.3
    prob = [0.9, 0.8, 0.7, 0.6, 0.5, 0.45, 0.4, 0.35, 0.3, 0.1] + [0.95, 0.31, 0.29, 0.2]
    names = [f"D1_{'L' if i < 10 else 'N'}_{i:08d}" for i in range(14)]
    rows = [
        (f"{name}_{band}.fits", "slsim", int(i < 10), p if band == "i" else "")
        for i, (name, p) in enumerate(zip(names, prob))
        for band in "gi"
    ]
    pd.DataFrame(rows, columns=["path", "domain", "label", "prob"]).to_csv(
        tmp_path / "pred_test.csv", index=False
    )
    assert lens_physics.false_positives(tmp_path) == 2


def test_the_interval_is_that_of_a_t_test():
    change = np.array([-0.3, -0.1, -0.2, 0.05, -0.15])
    expected = stats.ttest_1samp(change, 0).confidence_interval(0.95)
    assert lens_physics.interval(change) == pytest.approx((-0.14, expected.low, expected.high))


def test_coverage_of_errors_that_are_right():
    random = np.random.default_rng(0)
    truth = pd.DataFrame(
        dict(Rein=random.uniform(0.5, 2, 4000), sh=np.full(4000, 0.05), sh_PA=random.uniform(0, 180, 4000))
    )
    radius = truth["Rein"] * np.exp(0.1 * random.normal(size=4000))
    inferred = pd.DataFrame(
        dict(
            Rein=radius,
            Rein_err=0.1 * radius,
            sh=0.06,
            sh_err=0.001,
            sh_PA=(truth["sh_PA"] + 5 * random.normal(size=4000)) % 180,
            sh_PA_err=5.0,
        )
    )
    rows = {row[0]: row[1:] for row in lens_quantities.recovered(inferred, truth)}
    assert float(rows["Rein"][1]) == pytest.approx(0.0674, abs=0.005) and float(
        rows["Rein"][2]
    ) == pytest.approx(0.683, abs=0.03)
    assert float(rows["sh_PA"][0]) == pytest.approx(5 * 0.674, rel=0.08) and float(
        rows["sh_PA"][2]
    ) == pytest.approx(0.683, abs=0.03)
    assert rows["sh"] == ("0.01", "", "0.000", "4,000")


def test_a_star_of_hubble_becomes_one_of_the_simulated_survey():
    y, x = np.mgrid[:198, :198] - 98.5
    star = np.exp(-(x**2 + y**2) / 2 / (0.10 / 0.05 / 2.3548) ** 2)
    cutout = slacs_rings.as_cutout(5e3 * star / star.sum(), 26.0, "i", np.random.default_rng(0))
    counts = 5e3 * 10 ** (0.4 * (27 - 26))
    assert cutout.shape == (41, 41) and cutout.sum() == pytest.approx(counts, rel=0.02)
    offset = np.arange(41) - 20
    width = (
        np.sqrt(
            (cutout[14:27, 14:27].sum(0) * offset[14:27] ** 2).sum() / cutout[14:27, 14:27].sum() - 1 / 12
        )
        * 2.3548
        * 0.2
    )
    assert width == pytest.approx(0.71, rel=0.05)  # seeing of the simulated i band, arcsec
    assert cutout[:8].std() == pytest.approx(0.106, rel=0.15)  # noise of one year
