"""physics/plausibility.py: true lenses above wrong ones and look-alikes, on images rendered here; limits;
gradients.
"""

import math

import pytest
import torch

from physics import imaging, lensing, light
from physics.plausibility import CELLS, REACH, distance_ring, plausibility, residual_fit, variance_unexplained

SIZE, SCALE, FINE = 41, 0.2, 3
COUNT, BANDS = 24, 2
NOISE = 0.02  # counts of an empty pixel; a lens galaxy has 100, its source 3 to 8 in the first band


def draw(seed=0):
    torch.manual_seed(seed)
    uniform = torch.rand(12, COUNT, 1, 1)

    def between(i, low, high):
        return low + (high - low) * uniform[i]

    radius, phase = between(0, 0.8, 1.5), between(1, 0, 2 * math.pi)
    lens = dict(
        x0=0.0, y0=0.0, einstein_radius=radius, axis_ratio=between(2, 0.5, 0.9), angle=between(3, 0, math.pi)
    )
    shear = dict(shear_1=between(4, -0.06, 0.06), shear_2=between(5, -0.06, 0.06))
    offset = radius * between(6, 0.05, 0.4)
    source = dict(
        x0=offset * torch.cos(phase),
        y0=offset * torch.sin(phase),
        flux=between(7, 3, 8),
        half_light_radius=between(8, 0.1, 0.2),
        index=between(9, 0.8, 1.6),
        axis_ratio=between(10, 0.5, 1.0),
        angle=between(11, 0, math.pi),
    )
    return lens, shear, source


def rays(lens, shear, supersample=1):
    x, y = imaging.pixel_grid(SIZE, SCALE, supersample)
    return lensing.shoot_rays(
        x, y, lensing.deflection_sie(x, y, **lens), lensing.deflection_shear(x, y, **shear)
    )


def seen(brightness):
    """[B, C, H, W] counts behind the seeing, the second band half as bright,
    of brightness on the fine grid.
    """
    kernel = imaging.kernel_moffat(*imaging.pixel_grid(21, SCALE), torch.tensor(0.7), 3.0)
    image = imaging.convolve(imaging.integrate_pixels(brightness, SCALE, FINE), kernel)
    return torch.stack([image, 0.5 * image], 1)


def galaxy(lens):
    x, y = imaging.pixel_grid(SIZE, SCALE, FINE)
    return seen(
        light.brightness_sersic(
            x, y, 0.0, 0.0, 100.0, 0.7, torch.full((COUNT, 1, 1), 3.0), lens["axis_ratio"], lens["angle"]
        )
    )


def arcs(lens, shear, source):
    return seen(light.brightness_sersic(*rays(lens, shear, FINE), **source))


def observed(sky):
    rms = imaging.noise_variance(sky, NOISE, 300.0).sqrt()
    return sky + rms * torch.randn(sky.shape), rms


def judged(image, rms, lens_light, lens, shear, source):
    x, y = imaging.pixel_grid(SIZE, SCALE)
    return plausibility(
        image,
        lens_light + arcs(lens, shear, source),
        lens_light,
        rms,
        x,
        y,
        *rays(lens, shear),
        lens["einstein_radius"][:, 0, 0],
        torch.zeros(COUNT, 2),
    )


@pytest.fixture(scope="module")
def truth():
    torch.set_num_threads(1)
    lens, shear, source = draw()
    lens_light = galaxy(lens)
    image, rms = observed(lens_light + arcs(lens, shear, source))
    return image, rms, lens_light, lens, shear, source


def best_guess(image, rms, lens_light, lens, shear):
    """A source where the brightest arc pixel is traced to, as bright as fits the image best."""
    x, y = imaging.pixel_grid(SIZE, SCALE)
    excess = torch.where(torch.hypot(x, y) < 3, image - lens_light, 0)[:, 0].flatten(1)
    place = [
        beta.flatten(1).gather(1, excess.argmax(1, keepdim=True))[..., None] for beta in rays(lens, shear)
    ]
    source = dict(
        x0=place[0],
        y0=place[1],
        flux=torch.ones(COUNT, 1, 1),
        half_light_radius=torch.full((COUNT, 1, 1), 0.2),
        index=torch.ones(COUNT, 1, 1),
        axis_ratio=0.9,
        angle=0.0,
    )
    shape = arcs(lens, shear, source)
    flux = ((image - lens_light) * shape / rms**2).sum((1, 2, 3)) / (shape**2 / rms**2).sum((1, 2, 3))
    return source | {"flux": flux[:, None, None].clamp(min=0)}


def test_true_lenses_score_higher_than_wrong_ones(truth):
    image, rms, lens_light, lens, shear, source = truth
    right = judged(*truth)
    assert all(((part > 0) & (part <= 1)).all() for part in right)
    torch.testing.assert_close(right.score, right.fit * right.ring * right.counter_images)
    assert right.fit.median() > 0.9
    turned = {name: -value for name, value in shear.items()}
    for wrong_lens, wrong_shear, share in (
        (lens | {"einstein_radius": 1.5 * lens["einstein_radius"]}, shear, 1.0),
        (lens | {"einstein_radius": lens["einstein_radius"] / 1.5}, shear, 1.0),
        (lens | {"angle": lens["angle"] + math.pi / 2}, turned, 0.95),
    ):
        # With the true source, and with the one that suits the wrong lens best.
        for its_source in (source, best_guess(image, rms, lens_light, wrong_lens, wrong_shear)):
            wrong = judged(image, rms, lens_light, wrong_lens, wrong_shear, its_source)
            assert (right.score > wrong.score).float().mean() >= share


def test_true_lenses_score_higher_than_look_alikes(truth):
    _, _, lens_light, lens, shear, source = truth
    right = judged(*truth)
    x, y = imaging.pixel_grid(SIZE, SCALE, FINE)
    radius, phase = lens["einstein_radius"], source["angle"]
    flux = 4 * source["flux"]
    ring = light.brightness_ring(x, y, 0.0, 0.0, flux, radius, 0.12 * radius, 0.6, phase)
    companion = sum(
        light.brightness_sersic(
            x,
            y,
            1.3 * radius * torch.cos(phase + turn),
            1.3 * radius * torch.sin(phase + turn),
            0.5 * flux,
            0.2,
            source["index"],
            0.6,
            phase,
        )
        for turn in (0.0, 2.0)
    )
    nothing = torch.zeros_like(ring)
    for extra in (ring, companion, nothing):
        image, rms = observed(lens_light + seen(extra))
        wrong = judged(image, rms, lens_light, lens, shear, best_guess(image, rms, lens_light, lens, shear))
        above = (right.score[:, None] > wrong.score).float().mean()  # the AUC of true against look-alike
        assert above > 0.95


def test_each_part_sees_its_own_fault(truth):
    image, rms, lens_light, lens, shear, source = truth
    x, y = imaging.pixel_grid(SIZE, SCALE)
    beta = rays(lens, shear)
    radius, centre = lens["einstein_radius"][:, 0, 0], torch.zeros(COUNT, 2)
    right = judged(*truth)
    # A model that leaves the arcs out fits worse; the other parts do not look at it.
    bare = plausibility(image, lens_light, lens_light, rms, x, y, *beta, radius, centre)
    assert (
        (bare.fit < right.fit).all()
        and torch.equal(bare.ring, right.ring)
        and torch.equal(bare.counter_images, right.counter_images)
    )
    # Arcs of which one half of the sky is dark have no counter-images.
    half = torch.where((x * source["x0"] + y * source["y0"] > 0)[:, None], image - lens_light, 0)
    torn = plausibility(lens_light + half, lens_light + half, lens_light, rms, x, y, *beta, radius, centre)
    assert (torn.counter_images < 0.8 * right.counter_images).all() and (torn.fit == 1).all()


def test_units_and_limits():
    torch.manual_seed(0)
    x, y = imaging.pixel_grid(SIZE, SCALE, dtype=torch.float64)
    inside = torch.ones(1, SIZE, SIZE, dtype=torch.float64)
    # Noise as announced is chi squared 1: nothing above it but its scatter;
    # twice the noise is an excess of 3.
    residual = torch.randn(1, 5, SIZE, SIZE, dtype=torch.float64)
    assert residual_fit(residual, inside) < 0.05 and residual_fit(2 * residual, inside) == pytest.approx(
        3, abs=0.2
    )
    # The images of a point behind a round isothermal lens, without seeing,
    # are where the lens says and equally bright.
    alpha = lensing.deflection_sie(x, y, 0.0, 0.0, 1.0, 1.0, 0.0)
    beta_x, beta_y = (beta[None] for beta in lensing.shoot_rays(x, y, alpha))
    arcs = 1e4 * torch.exp(-((beta_x - 0.2) ** 2 + beta_y**2) / (2 * 0.2**2))[:, None]
    assert distance_ring(arcs, x, y, beta_x, beta_y, inside) < 0.15
    assert variance_unexplained(arcs, beta_x, beta_y, inside) < 0.05  # the cells are as wide as the source
    # Noise alone is evidence of nothing: both are as for a model that explains nothing.
    noise = torch.randn(1, 5, SIZE, SIZE, dtype=torch.float64)
    assert variance_unexplained(noise, beta_x, beta_y, inside) > 0.6
    empty = torch.zeros_like(noise)
    assert (
        distance_ring(empty, x, y, beta_x, beta_y, inside) == 1
        and variance_unexplained(empty, beta_x, beta_y, inside) == 1
    )
    # Brightness shuffled among the pixels of the same light is explained by no source.
    shuffled = arcs.flatten(2)[..., torch.randperm(SIZE * SIZE)].reshape(arcs.shape)
    assert variance_unexplained(shuffled, beta_x, beta_y, inside) > 0.7


def test_gradients_equal_finite_differences(truth):
    image, rms, lens_light, lens, shear, source = (
        {k: v[:1].double() if torch.is_tensor(v) else v for k, v in part.items()}
        if isinstance(part, dict)
        else part[:1].double()
        for part in truth
    )
    x, y = imaging.pixel_grid(SIZE, SCALE, dtype=torch.float64)

    def score(radius, shear_1, flux, centre):
        mass = lens | {"einstein_radius": radius, "x0": centre}
        at = lensing.shoot_rays(
            x,
            y,
            lensing.deflection_sie(x, y, **mass),
            lensing.deflection_shear(x, y, shear_1, shear["shear_2"]),
        )
        bright = light.brightness_sersic(*at, **(source | {"flux": flux}))[:, None] * SCALE**2
        model = lens_light + torch.cat([bright, 0.5 * bright], 1)
        place = torch.stack([centre[:, 0, 0], 0 * centre[:, 0, 0]], 1)
        return torch.stack(plausibility(image, model, lens_light, rms, x, y, *at, radius[:, 0, 0], place))

    values = [
        torch.tensor([[[v]]], dtype=torch.float64, requires_grad=True)
        for v in (float(lens["einstein_radius"]) * 1.1, 0.013, 4.0, 0.0123)
    ]
    assert torch.autograd.gradcheck(score, values, eps=1e-7, atol=1e-4, rtol=1e-3)


def test_an_example_does_not_depend_on_its_neighbours(truth):
    image, rms, lens_light, lens, shear, source = truth
    x, y = imaging.pixel_grid(SIZE, SCALE)
    beta = torch.stack(rays(lens, shear))
    radius, centre = lens["einstein_radius"][:, 0, 0], torch.zeros(COUNT, 2)
    model = lens_light + arcs(lens, shear, source)
    some = torch.tensor([5, 2, 17])
    alone = plausibility(
        image[some],
        model[some],
        lens_light[some],
        rms[some],
        x,
        y,
        *beta[:, some],
        radius[some],
        centre[some],
    )
    for part, all_of_it in zip(
        alone, plausibility(image, model, lens_light, rms, x, y, *beta, radius, centre)
    ):
        torch.testing.assert_close(part, all_of_it[some], rtol=1e-4, atol=1e-5)


def test_a_band_that_is_not_there_says_nothing(truth):
    """Zero, and its noise 0: as if there were no such channel."""
    image, rms, lens_light, lens, shear, source = truth
    x, y = imaging.pixel_grid(SIZE, SCALE)
    planes = [x, y, *rays(lens, shear), lens["einstein_radius"][:, 0, 0], torch.zeros(COUNT, 2)]
    bands = image, lens_light + arcs(lens, shear, source), lens_light, rms
    whole = plausibility(*bands, *planes)
    with_empty = plausibility(
        *(torch.cat([band, torch.zeros_like(band[:, :1])], 1) for band in bands), *planes
    )
    for part, same in zip(whole, with_empty):
        torch.testing.assert_close(part, same)


def test_counter_images_against_matrices(truth):
    """The diagonals of H and of H H^T, H the matrix that takes light to what the cells of the source plane
    say of each pixel, formed whole.
    """
    image, rms, lens_light, lens, shear, _ = truth
    radius = lens["einstein_radius"]
    beta = [(beta / radius).double()[:2] for beta in rays(lens, shear)]
    light = ((image - lens_light) / rms).double()[:2]
    inside = torch.ones(2, SIZE, SIZE, dtype=torch.float64)
    seen = (beta[0] ** 2 + beta[1] ** 2 < 1).flatten(1)
    for i in range(2):
        here, cells = seen[i], torch.linspace(-REACH, REACH, CELLS, dtype=torch.float64)
        column, row = (
            (1 - (each[i].flatten()[here, None] - cells).abs() / (cells[1] - cells[0])).clamp(min=0)
            for each in beta
        )
        spread = (row[:, :, None] * column[:, None, :]).flatten(1)
        matrix = spread @ (spread / (spread.sum(0) + 1e-6)).T
        own, pixels = matrix.diagonal()[:, None], light[i].flatten(1).T[here]
        noise = (
            (torch.eye(len(matrix), dtype=torch.float64) - matrix).square().sum(1, keepdim=True) / (1 - own)
        ).sum() * BANDS
        left = ((pixels - matrix @ pixels).square() / (1 - own)).sum()
        total, total_noise = (pixels.square() * (1 - own)).sum(), (1 - own).sum() * BANDS
        doubt = (2 * total_noise + 1).sqrt()
        expected = ((left - noise).clamp(min=0) + doubt) / ((total - total_noise).clamp(min=0) + doubt)
        torch.testing.assert_close(variance_unexplained(light, *beta, inside)[i], expected, rtol=1e-6, atol=0)
