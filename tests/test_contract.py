"""What the contract promises whoever writes a task, a loss or a mode; each line was once broken."""

import pytest
import torch
from torch import nn

from contract import Examples, Gradient, InPrecision, Loss, Objective, lengths_agree, refuse_lengths
from tests import toys


class Autoencoder(nn.Module):
    """[B, 4] -> [B, 4] by way of [B, 2]; notes in which precision it works."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Linear(4, 2), nn.Linear(2, 4)
        self.seen = []

    def encode(self, x):
        code = self.down(x)
        self.seen.append(code.dtype)
        return code

    def decode(self, code):
        return dict(image=self.up(code), exact=code.double().sum(1), count=torch.arange(len(code)))

    def forward(self, x):
        return self.decode(self.encode(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_methods_run_in_precision_through_the_same_door(dtype):
    model = Autoencoder()
    network = InPrecision(model, dtype)
    code = network.encode(torch.randn(3, 4))
    assert model.seen == [dtype] and code.dtype == torch.float32
    answer = network.decode(code)
    assert answer["image"].dtype == torch.float32
    assert answer["exact"].dtype == torch.float64 and answer["count"].dtype == torch.int64
    assert network(torch.randn(3, 4))["image"].dtype == torch.float32


def test_what_is_no_method_of_the_model_is_not_there():
    network = InPrecision(Autoencoder(), torch.bfloat16)
    for name in ("denoise", "seen"):
        with pytest.raises(AttributeError, match=name):
            getattr(network, name)


def test_a_loss_that_is_a_module_is_part_of_the_objective():
    objective = Objective(toys.Classifier(toys.Config()), toys.Kendall(), torch.float32)
    names = [name for name, _ in objective.named_parameters()]
    assert "loss.log_var" in names and objective.loss_module is objective.loss
    function = Objective(toys.Classifier(toys.Config()), toys.loss, torch.float32)
    assert not [*function.loss_module.parameters()] and not function.loss_module.state_dict()


def test_parts_stay_differentiable_and_terms_do_not():
    torch.manual_seed(0)
    objective = Objective(toys.Classifier(toys.Config()), toys.Kendall(), torch.float32)
    batch = toys.Clouds(toys.Config(), "train").__getitems__([0, 1, 2])
    loss = objective(batch, 0)
    torch.testing.assert_close(loss.parts["label"] + loss.parts["size"], loss.value)
    assert not any(term.requires_grad for term in loss.terms.values())
    weights = [*objective.network.parameters()]
    slopes = [torch.autograd.grad(part.sum(), weights, retain_graph=True) for part in loss.parts.values()]
    assert not torch.equal(slopes[0][0], slopes[1][0])  # what PCGrad would project


def test_a_loss_without_parts_has_none():
    assert Loss(torch.zeros(2), {}).parts == {}


def test_a_loss_that_is_no_number_an_example_is_refused():
    objective = Objective(
        nn.Linear(2, 1), lambda model, batch, step: Loss(model(batch["x"]).mean(), {}), torch.float32
    )
    with pytest.raises(ValueError, match=r"expected shape \[3\], got \[\]"):
        objective(dict(x=torch.zeros(3, 2)), 0)


@pytest.mark.parametrize("wrong", [torch.zeros(3), torch.zeros(())])
def test_tensors_of_other_lengths_are_named_at_the_border(wrong):
    batch = dict(x=torch.zeros(2, 5), y=wrong, index=torch.arange(2))
    with pytest.raises(ValueError, match=r"a batch of 2 examples has 'y' of shape .* \(examples a, b\)"):
        refuse_lengths(batch, 2, ["a", "b"])
    assert not lengths_agree(batch, 2) and lengths_agree(dict(x=torch.zeros(2, 5)), 2)


def test_what_a_part_leaves_out_has_a_default():
    data, gradient = Examples(), Gradient()
    assert data.uniform is False and data.epochs(8, 0, 1) is None and data.follow(lambda step: [], 0) is None
    assert gradient.order is None and gradient.report() == {} and gradient.state_dict() == {}
