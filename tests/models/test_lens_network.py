"""The lens finder whole: what goes in front of the network and what is read off its features."""

import torch
from torch import nn

from models.layers.augment import Augment
from models.layers.preprocess import Preprocess
from models.lens_network import LensNetwork
from tests.models.layers.test_preprocess import galaxies


class Mean(nn.Module):
    """The mean square of the pixels, in half precision."""

    feature_dim = 1

    def features(self, x):
        self.seen = x
        return x.square().mean((1, 2, 3))[:, None].bfloat16()

    def classify(self, features):
        return features


def test_the_logit_is_that_of_the_preprocessed_image():
    x, present, domain = galaxies(5), torch.ones(5, 2, dtype=torch.bool), torch.zeros(5, dtype=torch.int64)
    model = LensNetwork(Preprocess(pad_to=64), Augment(), Mean())
    said = model.eval()(x, present, domain)
    assert list(said) == ["logit"] and said["logit"].shape == (5,) and said["logit"].dtype == torch.float32
    plain = Preprocess(pad_to=64)(x, present, domain)
    assert torch.equal(model.network.seen, plain)  # not augmented outside training
    model.train()(x, present, domain)
    assert not torch.equal(model.network.seen, plain)
    assert list(model.state_dict()) == ["preprocess.recipe"]
    assert LensNetwork(Preprocess(), None, Mean()).train()(x, present, domain)["logit"].isfinite().all()


def test_channels_last_keeps_the_numbers():
    """Another layout of the same pixels: the same logits and gradients but for rounding,
    and the same keys.
    """
    from model import create_model

    x, present, domain = galaxies(5), torch.ones(5, 2, dtype=torch.bool), torch.zeros(5, dtype=torch.int64)
    found, seen = [], []
    for channels_last in (False, True):
        torch.manual_seed(0)
        network = create_model("robust_resnet", size="18", width=0.25, in_chans=2)
        network.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].stride()[1]))
        model = LensNetwork(Preprocess(), None, network, channels_last=channels_last)
        logit = model(x, present, domain)["logit"]
        logit.square().sum().backward()
        found.append([logit.detach(), *(p.grad for p in model.parameters())])
    assert seen == [41 * 41, 1]  # how far the next channel is
    for plain, last in zip(*found, strict=True):
        torch.testing.assert_close(last, plain, rtol=1e-3, atol=1e-5)
