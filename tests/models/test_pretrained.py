"""Pretrained weights: timm's own files, loaders and folding as the other side."""

import pytest
import torch
from torch import nn

from models.convnextv2 import ConvNeXtV2
from models.enhanced_vit import EnhancedViT
from models.film_conditioned import FiLMConditioned
from models.pretrained import load_pretrained
from models.resnet import ResNet


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """Encoder for three channels with a head for 1,000 classes, all values at random."""
    generator = torch.Generator().manual_seed(7)
    with torch.device("meta"):
        state = ConvNeXtV2("atto", 3, 1000).state_dict()
    return {name: 0.05 * torch.randn(t.shape, generator=generator) for name, t in state.items()}


def save(tmp_path, content, name="weights.pt"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


def in_authors_names(weights: dict) -> dict:
    """timm's names -> those of github.com/facebookresearch/ConvNeXt-V2, with its shapes."""
    renamed = {}
    for name, tensor in weights.items():
        parts = name.split(".")
        if parts[0] == "stem":
            name = f"downsample_layers.0.{parts[1]}.{parts[2]}"
        elif "downsample" in parts:
            name = f"downsample_layers.{parts[1]}.{parts[3]}.{parts[4]}"
        elif parts[0] == "stages":
            inner = {
                "conv_dw.": "dwconv.",
                "mlp.fc1.": "pwconv1.",
                "mlp.fc2.": "pwconv2.",
                "mlp.grn.weight": "grn.gamma",
                "mlp.grn.bias": "grn.beta",
            }
            rest = ".".join(parts[4:])
            for timms, theirs in inner.items():
                rest = rest.replace(timms, theirs)
            name = f"stages.{parts[1]}.{parts[3]}.{rest}"
            if "grn" in rest:
                tensor = tensor.view(1, 1, 1, -1)
            elif "pwconv" in rest and "weight" in rest:
                tensor = tensor.flatten(1)
        else:
            name = name.replace("head.norm.", "norm.").replace("head.fc.", "head.")
        renamed[name] = tensor
    return renamed


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_timms_own_file(timm, tmp_path, suffix):
    theirs = timm.create_model("convnextv2_atto", in_chans=1, num_classes=1)
    nn.init.normal_(theirs.stages[2].blocks[3].mlp.grn.weight)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(theirs.state_dict(), path)
    else:
        torch.save(theirs.state_dict(), path)
    ours = ConvNeXtV2("atto")
    report = load_pretrained(ours, path)
    x = torch.randn(2, 1, 41, 41)
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)
    assert len(report.loaded) == len(ours.state_dict()) and not (
        report.kept or report.dropped or report.folded
    )


@pytest.mark.parametrize("in_chans", [1, 2, 3, 4, 5, 7])
def test_folding_is_timms(timm, tmp_path, weights, in_chans):
    from timm.models._manipulate import adapt_input_conv

    ours = ConvNeXtV2("atto", in_chans)
    report = load_pretrained(ours, save(tmp_path, weights))
    expected = adapt_input_conv(in_chans, weights["stem.0.weight"].clone())
    assert torch.allclose(ours.stem[0].weight, expected, atol=1e-7)
    assert report.folded == (None if in_chans == 3 else (3, in_chans))


def test_grey_encoder_for_many_bands(tmp_path, weights):
    grey = weights | {"stem.0.weight": weights["stem.0.weight"][:, :1]}
    one, five = ConvNeXtV2("atto", 1).eval(), ConvNeXtV2("atto", 5).eval()
    path = save(tmp_path, grey)
    load_pretrained(one, path), load_pretrained(five, path)
    x = torch.randn(2, 1, 41, 41)
    assert torch.allclose(one.features(x), five.features(x.expand(-1, 5, -1, -1)), atol=1e-4)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: w,
        lambda w: {"state_dict": w, "epoch": 3},
        lambda w: {"model": w},
        lambda w: {"model": {"state_dict": w}},
        lambda w: {f"module.{k}": v for k, v in w.items()},
        lambda w: {"state_dict": {f"_orig_mod.module.{k}": v for k, v in w.items()}},
        lambda w: {
            "model": {f"network.{k}": v for k, v in w.items()} | {"preprocess.recipe": torch.zeros(13)}
        },
        lambda w: {
            "state_dict": {f"encoder.{k}": v for k, v in w.items() if "head.fc" not in k}
            | {"head.linear.weight": torch.zeros(34, 320), "train_accuracy.total": torch.tensor(1)}
        },
    ],
)
def test_wrappers(tmp_path, weights, wrap):
    ours = ConvNeXtV2("atto", 3)
    before = {name: t.clone() for name, t in ours.state_dict().items()}
    report = load_pretrained(ours, save(tmp_path, wrap(weights)))
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, before[name] if name.startswith("head.fc.") else weights[name])
    assert report.kept == ("head.fc.weight", "head.fc.bias")  # 1,000 or 34 classes are not one logit


def test_a_head_of_the_same_size_is_kept(tmp_path, weights):
    report = load_pretrained(ConvNeXtV2("atto", 1, 1000), save(tmp_path, weights))
    assert "head.fc.weight" in report.loaded and not report.dropped


def test_report_in_words(tmp_path, weights):
    path = save(tmp_path, weights)
    words = str(load_pretrained(ConvNeXtV2("atto", 1), path))
    assert words == (
        f"{len(weights) - 2} tensors from {path}; first layer folded from 3 to 1 channels; freshly "
        "initialised: head.fc.weight, head.fc.bias; not used: head.fc.weight, head.fc.bias"
    )


@pytest.mark.parametrize("size", ["atto", "tiny"])  # bottlenecks of 1x1 convolutions and of linear layers
def test_authors_names(timm, tmp_path, size):
    from timm.models.convnext import checkpoint_filter_fn

    theirs = timm.create_model(f"convnextv2_{size}", in_chans=3, num_classes=10)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.05)
    authors = in_authors_names(theirs.state_dict())
    # timm reads it as such a file
    theirs.load_state_dict(checkpoint_filter_fn({"model": dict(authors)}, theirs))
    ours = ConvNeXtV2(size, 3, 10)
    report = load_pretrained(ours, save(tmp_path, {"model": authors}))
    assert len(report.loaded) == len(theirs.state_dict())
    assert all(torch.equal(t, theirs.state_dict()[name]) for name, t in ours.state_dict().items())


def test_an_encoder_without_norm_and_head(tmp_path, weights):
    authors = {
        name: t for name, t in in_authors_names(weights).items() if not name.startswith(("norm.", "head."))
    }
    report = load_pretrained(
        ConvNeXtV2("atto", 3), save(tmp_path, {"model": authors | {"mask_token": torch.zeros(1)}})
    )
    assert report.kept == ("head.norm.weight", "head.norm.bias", "head.fc.weight", "head.fc.bias")
    assert report.dropped == ("mask_token",)


def test_timms_other_networks(timm, tmp_path):
    source, target = (timm.create_model("resnet10t", in_chans=n, num_classes=m) for n, m in ((3, 10), (1, 1)))
    first = next(iter(source.state_dict()))
    report = load_pretrained(target, save(tmp_path, source.state_dict()))
    assert report.folded == (3, 1) and report.kept == ("fc.weight", "fc.bias")
    assert torch.allclose(target.state_dict()[first], source.state_dict()[first].sum(1, keepdim=True))


def timms_resnet(timm, size: str, classes: int = 10):
    """With GroupNorm in the groups of models/resnet.py, and nothing that is zero or one."""
    theirs = timm.create_model(f"resnet{size}", norm_layer=timm.layers.GroupNorm, num_classes=classes)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.05)
    return theirs.eval()


@pytest.mark.parametrize("size", ["18", "50"])
def test_timms_resnets(timm, tmp_path, size):
    """Their first weight is called as one in every block is; their classifier is called fc."""
    theirs = timms_resnet(timm, size)
    path, x = (
        save(tmp_path, {"state_dict": {f"module.{name}": t for name, t in theirs.state_dict().items()}}),
        torch.randn(2, 3, 64, 64),
    )
    ours = ResNet(size, 3, 10, stem="patch").eval()
    report = load_pretrained(ours, path)
    assert len(report.loaded) == len(ours.state_dict()) and not (
        report.kept or report.dropped or report.folded
    )
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)
    one = ResNet(size, 5, 1, stem="patch").eval()
    report = load_pretrained(one, path)
    assert (
        report.folded == (3, 5)
        and report.kept == ("head.weight", "head.bias")
        and report.dropped == ("fc.weight", "fc.bias")
    )
    # the stem of small images
    refused(ResNet(size, 3, 10), path, r"conv1.weight \[64, 3, 7, 7\] \(the network's is \[64, 3, 3, 3\]\)")


def test_symmetric_resnets(timm, tmp_path):
    """Their own weights, for other bands too; timm's have another shape."""
    source, target = (
        ResNet("18", bands, classes, width=0.25, symmetric=True).eval() for bands, classes in ((1, 3), (4, 1))
    )
    torch.save(source.state_dict(), tmp_path / "source.pt")
    assert load_pretrained(target, tmp_path / "source.pt").folded == (1, 4)
    x = torch.randn(2, 1, 41, 41)
    assert torch.allclose(target.features(x.expand(-1, 4, -1, -1)), source.features(x), atol=1e-5)
    torch.save(timms_resnet(timm, "18").state_dict(), tmp_path / "timm.pt")
    refused(
        ResNet("18", 3, 10, stem="patch", symmetric=True),
        tmp_path / "timm.pt",
        r"conv1.weight \[64, 3, 7, 7\] \(the network's is \[8, 3, 7, 7\]\)",
    )


def test_another_resnet_is_refused(timm, tmp_path):
    path = save(tmp_path, timms_resnet(timm, "34").state_dict())
    refused(ResNet("18", 3, stem="patch"), path, "does not fit this network: layer1.2.conv1.weight")
    refused(
        ConvNeXtV2("atto", 3),
        path,
        "expected one encoder, whose first weight is 'stem.0.weight'; the file has 0 such names: "
        "conv1.weight",
    )
    two = {
        f"{name}.{key}": t
        for name in ("student", "teacher")
        for key, t in ResNet("18", 3).state_dict().items()
    }
    refused(
        ResNet("18", 3),
        save(tmp_path, two),
        "the file has 2 such names: student.conv1.weight, teacher.conv1.weight",
    )


def test_batch_norm_is_no_group_norm(timm, tmp_path):
    path = save(tmp_path, timm.create_model("resnet18").state_dict())
    refused(
        ResNet("18", 3, stem="patch"), path, r"it has BatchNorm \(bn1.running_mean\), the network GroupNorm"
    )
    load_pretrained(timm.create_model("resnet18", num_classes=1), path)


@pytest.mark.parametrize(
    "build",
    [
        lambda fields: FiLMConditioned("18", 3, width=0.25, fields=fields),
        lambda fields: EnhancedViT("tiny", 3, fields=fields),
    ],
    ids=["film_conditioned", "enhanced_vit"],
)
def test_what_conditions_on_metadata_is_never_in_a_file(build, tmp_path):
    """A file without metadata fits; one of another catalogue's columns gives its encoder and nothing else."""
    plain, other, ours = build(()), build(("seeing", "snr")), build(("redshift", "magnitude_r"))
    for network in (plain, other):
        for parameter in network.parameters():
            nn.init.normal_(parameter)
        fresh = [name for name in ours.state_dict() if name.startswith(ours.fresh)]
        before = {name: ours.state_dict()[name].clone() for name in fresh}
        report = load_pretrained(
            ours,
            save(tmp_path, {"model": {f"network.{name}": t for name, t in network.state_dict().items()}}),
        )
        for name, tensor in ours.state_dict().items():
            assert torch.equal(tensor, before[name] if name in before else network.state_dict()[name])
        assert set(report.kept) == set(fresh) and set(report.dropped) == (
            set(fresh) if network is other else set()
        )


def test_a_transformer_of_timm_has_other_tokens(timm, tmp_path):
    with torch.device("meta"):
        theirs = timm.create_model("vit_tiny_patch16_224", num_classes=1).state_dict()
    path = save(tmp_path, {name: torch.zeros(t.shape) for name, t in theirs.items()})
    refused(
        EnhancedViT("tiny", 3),
        path,
        "first weight is 'stem.0.weight'; the file has 0 such names: cls_token, pos_embed",
    )


def refused(network, path, words):
    before = {name: t.clone() for name, t in network.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        load_pretrained(network, path)
    # nothing is half loaded
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())


def test_another_encoder_is_refused(tmp_path, weights):
    path, atto = save(tmp_path, weights), ConvNeXtV2("atto", 3)
    refused(
        ConvNeXtV2("femto", 3),
        path,
        r"does not fit.*stem.0.weight \[40, 3, 4, 4\] \(the net.* is \[48, 3.*more",
    )
    deeper = weights | {"stages.2.blocks.6.norm.weight": torch.zeros(160)}
    refused(atto, save(tmp_path, deeper), "does not fit.*stages.2.blocks.6.norm.weight")
    shallower = {name: t for name, t in weights.items() if not name.startswith("stages.2.blocks.5.norm")}
    refused(atto, save(tmp_path, shallower), r"stages.2.blocks.5.norm.weight \(absent\)")
    refused(
        atto,
        save(tmp_path, weights | {"stem.1.bias": torch.full((40,), torch.nan)}),
        "not finite: stem.1.bias",
    )
    two = weights | {f"ema.{name}": t for name, t in weights.items()}
    refused(atto, save(tmp_path, two), "expected one encoder.*2 such names: stem.0.weight, ema.stem.0.weight")
    refused(atto, save(tmp_path, {"fc.weight": torch.zeros(2, 2)}), "0 such names: fc.weight")


class Hostile:
    def __reduce__(self):
        return print, ("code was run",)


def test_files_that_cannot_be_read(tmp_path, weights, capsys):
    atto = ConvNeXtV2("atto", 3)
    refused(atto, tmp_path / "absent.pt", "no such file of weights.*absent.pt")
    refused(atto, save(tmp_path, {"state_dict": weights, "hyper_parameters": Hostile()}), "may run code")
    assert capsys.readouterr().out == ""
    refused(atto, save(tmp_path, {"optimizer": {"lr": 1.0}}), "holds no weights")
    (tmp_path / "text.pt").write_text("not weights")
    refused(atto, tmp_path / "text.pt", "not a file of tensors")
    (tmp_path / "bad.safetensors").write_text("not weights")
    refused(atto, tmp_path / "bad.safetensors", "bad.safetensors is not a file of tensors")
