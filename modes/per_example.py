"""The gradient of each example apart, by Opacus, and the proof that it is right for this network."""

import warnings

import torch
from torch import Tensor, nn

from contract import Batch, Run
from utils.mistake import Mistake


def hooked(model: nn.Module):
    """Hooks on `model` that fill `p.grad_sample` [B, *p.shape] in a backward pass of the summed loss.

    Raises Mistake for layers that mix examples (BatchNorm) or that Opacus cannot treat (nn.GRU and its like).
    """
    from opacus import GradSampleModule
    from opacus.validators import ModuleValidator

    if recurrent := next(
        (name for name, module in model.named_modules() if isinstance(module, nn.RNNBase)), None
    ):
        raise Mistake(
            f"the recurrent layer {recurrent!r} takes and gives more than one tensor, which Opacus' hooks "
            "cannot follow; customer_data mode has no light curves yet"
        )
    if errors := ModuleValidator.validate(model, strict=False):
        raise Mistake(
            "this network mixes examples or cannot be treated one by one "
            f"({str(errors[0]).splitlines()[0]}); customer_data mode needs GroupNorm or LayerNorm in place "
            "of BatchNorm"
        )
    # the first layer's input needs no gradient, which torch remarks on at every step
    warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
    # functorch for every layer: Opacus' own convolution sampler is wrong for channels-last activations
    # (1.6.0)
    return GradSampleModule(model, loss_reduction="sum", force_functorch=True)


def refuse_unless_each_alone(run: Run, hooks, pair: Batch, step: int) -> None:
    """Compare the gradients of two examples, taken together, with one backward pass each;
    a wrong one voids privacy.

    Modules without parameters (dropout, augmentation) are held in eval mode meanwhile, so that nothing is
    drawn. Raises Mistake, naming the parameter, for a network that mixes examples, ties weights or uses them
    elsewhere.
    """
    training = {module: module.training for module in run.model.modules()}
    for module in training:
        module.training = any(True for _ in module.parameters(recurse=False))
    weights = {name: p for name, p in run.model.named_parameters() if p.requires_grad}
    run.objective(pair, step).value.sum().backward()
    together = {name: getattr(p, "grad_sample", None) for name, p in weights.items()}
    hooks.disable_hooks()
    for example in range(2):
        run.model.zero_grad(set_to_none=True)
        run.objective(
            {name: t[example : example + 1] for name, t in pair.items()}, step
        ).value.sum().backward()
        for name, p in weights.items():
            alone = p.grad if p.grad is not None else torch.zeros_like(p)
            if not close(together[name], example, alone):
                raise Mistake(
                    f"the per-example gradient of {name} differs from that of the example alone: this "
                    "network mixes examples, ties weights or uses them outside their module, or its loss "
                    "calls it several times (--adversarial, the physics term shear_consistency); "
                    "customer_data mode cannot treat it"
                )
    hooks.enable_hooks()
    for module, mode in training.items():
        module.training = mode
    for p in weights.values():
        p.grad = p.grad_sample = None


def close(grad_sample: Tensor | None, example: int, alone: Tensor) -> bool:
    """Equal up to the rounding of bf16; the defects that this is to find are of order one."""
    return isinstance(grad_sample, Tensor) and bool(
        (grad_sample[example] - alone).norm() <= 1e-2 * alone.norm() + 1e-6
    )
