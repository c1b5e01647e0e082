"""Types of layers that several rooms distinguish."""

from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

CONVOLUTIONS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip


def is_batchnorm(module: nn.Module) -> bool:
    """Whether a module is a BatchNorm: torch's, torchvision's frozen one, or timm's with an activation."""
    running = (getattr(module, name, None) for name in ("running_mean", "running_var"))
    return all(isinstance(s, Tensor) for s in running) and not isinstance(module, _InstanceNorm)
