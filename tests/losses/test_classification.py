"""Binary cross entropy against torch, a closed form and its limits."""

import math

import pytest
import torch

from losses.classification import binary_cross_entropy


def test_torch_and_closed_form():
    logit, label = 5 * torch.randn(50), torch.rand(50).round()
    value = binary_cross_entropy(logit, label)
    assert torch.allclose(value, torch.nn.BCEWithLogitsLoss(reduction="none")(logit, label), atol=1e-6)
    for x, y, v in zip(logit.tolist(), label.tolist(), value.tolist()):
        assert v == pytest.approx(math.log1p(math.exp(-x if y else x)), rel=1e-5)


def test_far_from_zero():
    logit = torch.tensor([1e4, -1e4, 1e4, -1e4, 25.0], requires_grad=True)
    value = binary_cross_entropy(logit, torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0]))
    assert value.tolist() == pytest.approx([0, 0, 1e4, 1e4, math.exp(-25)], rel=1e-5)
    value.sum().backward()
    assert logit.grad.tolist() == pytest.approx([0, 0, 1, -1, -math.exp(-25)], rel=1e-5)


def test_slope_is_probability_minus_label():
    logit, label = torch.randn(20, requires_grad=True), torch.rand(20)
    binary_cross_entropy(logit, label).sum().backward()
    assert torch.allclose(logit.grad, logit.detach().sigmoid() - label, atol=1e-6)


def test_smoothing():
    logit, label = torch.randn(20), torch.rand(20).round()
    mixture = (
        0.9 * binary_cross_entropy(logit, label)
        + 0.1
        * (binary_cross_entropy(logit, torch.zeros(20)) + binary_cross_entropy(logit, torch.ones(20)))
        / 2
    )
    assert torch.allclose(binary_cross_entropy(logit, label, smoothing=0.1), mixture)


def test_always_float32_and_one_value_an_example():
    assert (
        binary_cross_entropy(torch.randn(3).bfloat16(), torch.ones(3, dtype=torch.int64)).dtype
        == torch.float32
    )
    with pytest.raises(ValueError, match=r"\[3, 1\]"):
        binary_cross_entropy(torch.randn(3, 1), torch.ones(3))
