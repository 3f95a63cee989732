"""A new lens network: three convolutions and a mean."""

from torch import Tensor, nn


class PlainCNN(nn.Module):
    """Images [B, in_chans, H, W] -> logits [B, num_classes]."""

    def __init__(self, in_chans: int = 1, num_classes: int = 1, width: int = 16, drop_path_rate: float = 0.0):
        super().__init__()
        self.feature_dim = 4 * width
        widths = (in_chans, width, 2 * width, 4 * width)
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(4, after), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Dropout(drop_path_rate))
        self.head = nn.Linear(self.feature_dim, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """[B, feature_dim]"""
        return self.body(x).mean((2, 3))

    def classify(self, features: Tensor) -> Tensor:
        return self.head(features)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))
