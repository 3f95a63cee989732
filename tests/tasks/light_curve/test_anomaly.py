"""An anomaly score that does not follow brightness, maps, neighbours, and the strangest curves."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.decomposition import PCA

from models.recurrent_vae import Reconstruction
from tasks.light_curve import alike, anomaly, plots, scores, strangest
from tasks.light_curve.scores import Noise
from utils.mistake import Mistake

COUNTED = Noise("counts", "poisson")


class Mean(torch.nn.Module):
    """Says the plain mean of each band, and nothing of the latent vector."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, rate, low, up, seen, time, length, noise=None):
        mean = torch.where(seen, rate, 0).sum(1, keepdim=True) / seen.sum(1, keepdim=True).clamp(min=1)
        none = torch.zeros(len(rate), 3)
        return Reconstruction(mean.expand_as(rate).clamp(min=1e-6), 0 * rate, none, none)


def curves(B: int = 400, T: int = 40, wild: float = 0.3, counted: bool = True) -> dict[str, torch.Tensor]:
    """Log-normal flicker of sources whose brightness spans three decades, as counts or as rates."""
    draw = torch.Generator().manual_seed(0)
    level = torch.logspace(-1, 2, B)[:, None, None]
    exposure = torch.full((B, T, 1), 20.0)
    background = 0.02 * exposure
    truth = level * (wild * torch.randn(B, T, 1, generator=draw)).exp()
    counts = torch.poisson(truth * exposure + background, generator=draw)
    batch = dict(counts=counts, background=background, exposure=exposure, observed=counts >= 0)
    rate, low, up = anomaly.count_rates.thinned(counts, background, exposure, torch.ones(()))
    batch |= dict(rate=rate, error_low=low, error_up=up, length=torch.full((B,), T))
    return batch | dict(time=torch.arange(float(T)).expand(B, T))


@pytest.mark.parametrize("kind", ["counts", "rates", "signed"])
def test_what_is_unexplained_in_steady_curves_is_noise(kind):
    """Simulated constant curves, described by their own best constant: mean 0, deviation 1."""
    noise = Noise(kind, "poisson" if kind == "counts" else "scaled_poisson")
    steady = anomaly.steady_curves(curves(wild=0.0), noise, torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = anomaly.embed(Mean(), steady, noise)
    z = found["constant_excess"]
    bright = found["signal"] > 200  # chi^2 of few counts is none
    z = z if kind == "counts" else z[bright]
    assert abs(z.mean()) < 0.25 and 0.8 < z.std() < 1.25
    assert abs(spearmanr(z, found["signal"][bright] if kind != "counts" else found["signal"])[0]) < 0.15


def test_flicker_alike_is_as_strange_in_bright_and_in_faint_curves():
    with torch.no_grad():
        found = {
            name: values.numpy() for name, values in anomaly.embed(Mean(), curves(1000), COUNTED).items()
        }
    raw, signal = found["unexplained"], found["signal"]
    assert spearmanr(raw, signal)[0] > 0.9
    half = np.arange(len(raw)) % 2 == 0
    course = anomaly.course_with_signal(signal[half], raw[half])
    score = anomaly.counted_from(course, signal[~half], raw[~half])
    assert abs(spearmanr(score, signal[~half])[0]) < 0.2 and abs(np.median(score)) < 0.3
    assert len(course["signal"]) == 12 and (np.diff(course["signal"]) > 0).all()


def test_a_steady_copy_has_the_same_exposure_and_its_own_noise():
    batch = curves()
    copies = anomaly.steady_curves(batch, COUNTED, torch.Generator().manual_seed(1))
    assert all(
        torch.equal(copies[name], batch[name]) for name in ("exposure", "background", "time", "observed")
    )
    ratio = copies["counts"].sum((1, 2)) / batch["counts"].sum((1, 2))
    assert ratio[200:].sub(1).abs().max() < 0.1 and not torch.equal(copies["counts"], batch["counts"])


def test_a_calibration_of_few_curves_is_one_node_of_plain_numbers():
    course = anomaly.course_with_signal(np.array([3.0, 5, 9]), np.array([1.0, 1, 1]))
    assert course["median"] == [1.0] and course["spread"][0] > 0
    assert anomaly.counted_from(course, np.array([0.0, 1e9]), np.array([1.0, 1.0])).tolist() == [0, 0]


# which are alike --------------------------------------------------------------------------------------------


def frame(N: int = 30, L: int = 4) -> pd.DataFrame:
    vectors = np.random.default_rng(0).normal(size=(N, L)) * np.arange(1, L + 1)
    table = pd.DataFrame({f"z_{unit:02d}": vectors[:, unit] for unit in range(L)})
    return table.assign(source=[f"star {n}" for n in range(N)], path="p", anomaly=np.arange(N) / 7)


def test_the_plane_is_scikit_learns():
    vectors = alike.latent_of(frame())
    place, share = alike.principal_plane(vectors)
    theirs = PCA(2).fit(vectors)
    np.testing.assert_allclose(np.abs(place), np.abs(theirs.transform(vectors)), atol=1e-8)
    np.testing.assert_allclose(share, theirs.explained_variance_ratio_, atol=1e-8)
    place, _ = alike.principal_plane(vectors[:, :1])
    assert (place[:, 1] == 0).all()


def test_the_nearest_are_nearest():
    table = frame()
    found = alike.nearest_curves(table, "star 7", ["anomaly"])
    vectors = alike.latent_of(table)
    distance = np.linalg.norm(vectors - vectors[7], axis=1)
    assert found["source"].tolist() == [f"star {n}" for n in np.argsort(distance)[1:11]]
    np.testing.assert_allclose(found["distance"], np.sort(distance)[1:11], rtol=1e-6)
    assert found["rank"].tolist() == list(range(1, 11)) and (found["to"] == "star 7").all()
    with pytest.raises(Mistake, match="--nearest 'star 77': no curve .* names most like it are star 7"):
        alike.nearest_curves(table, "star 77", [])


def test_umap_is_asked_for_in_one_line_where_it_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(Mistake, match="pip install -r requirements-umap.txt"):
        alike.refuse_without_umap()


def test_umap_gives_the_same_map_each_time():
    pytest.importorskip("umap")
    vectors = alike.latent_of(frame())
    place = alike.umap_plane(vectors)
    assert (
        place.shape == (30, 2)
        and np.isfinite(place).all()
        and np.array_equal(place, alike.umap_plane(vectors))
    )


@pytest.mark.parametrize("labels", [None, np.array(["x", "", "y"] * 10, dtype=object)])
def test_a_map_has_a_panel_a_colour_and_names_on_request(labels):
    table = frame()
    place, _ = alike.principal_plane(alike.latent_of(table))
    rate = np.linspace(0.1, 9, 30)
    figure = plots.latent_map(
        place,
        ("a", "b"),
        "PCA",
        labels,
        rate,
        "counts/s",
        table["anomaly"].to_numpy(),
        {3: "star 3", 5: "star 5"},
    )
    panels = 2 if labels is None else 3
    assert len(figure.axes) == panels + 2  # and two scales
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["1  star 3", "2  star 5"]
    assert all({"1", "2"} <= {text.get_text() for text in ax.texts} for ax in figure.axes[:panels])
    if labels is not None:
        names = {text.get_text() for text in figure.axes[0].get_legend().get_texts()}
        assert names == {"x (10)", "y (10)", "no label (10)"}
    rate[3] = -1  # differences of images have no logarithm
    plots.latent_map(place, ("a", "b"), "", labels, rate, "", table["anomaly"].to_numpy(), {})


# why --------------------------------------------------------------------------------------------------------


def test_the_band_and_the_time_that_fail_are_found():
    batch = {name: values[:3] for name, values in curves(wild=0.0).items()}
    batch = {name: x.expand(-1, -1, 2).clone() if x.ndim == 3 else x for name, x in batch.items()}
    batch["counts"][1, 7, 1] += 900
    expected = torch.full_like(batch["counts"], 1.0)
    deviance = scores.deviance(batch["rate"].mean(1, keepdim=True), batch, "counts")
    failure = strangest.Failure(batch, batch["rate"][None], deviance, expected)
    why = strangest.why_strange(failure, ("soft", "hard"), np.array([0.0, 5e8, 0.0]))
    assert why["worst_band"][1] == "hard" and why["worst_time"][1] == 5e8 + 7
    np.testing.assert_allclose(why["deviance_hard"], deviance[..., 1].mean(1), rtol=1e-6)
    assert (
        why["worst_deviance"][1] == pytest.approx(deviance[1, 7, 1].item()) and why["expected_soft"][0] == 1
    )


def test_scores_are_compared_in_one_table():
    draw = np.random.default_rng(0)
    signal = draw.lognormal(3, 1, 200)
    labels = np.array(["odd"] * 20 + ["dull"] * 170 + [""] * 10, dtype=object)
    table = pd.DataFrame(
        dict(anomaly=draw.normal(size=200) + 9 * (labels == "odd"), shortfall=np.log(signal))
    )
    table = table.assign(
        signal=signal, points=draw.integers(3, 90, 200), anomaly_by_hand=draw.normal(size=200)
    )
    found = strangest.compared_scores(table, labels).set_index("score")
    assert found["rho_signal"]["shortfall"] == pytest.approx(1) and abs(found["rho_signal"]["anomaly"]) < 0.3
    assert found["auc_odd"]["anomaly"] == 1 and 0.3 < found["auc_odd"]["anomaly_by_hand"] < 0.7
