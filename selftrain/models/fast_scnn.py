"""Fast-SCNN (Poudel et al. 2019, arXiv 1902.04502): 1.1 million parameters, no pretraining."""

from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual

from selftrain.models.layers import Backbone, conv_bn_relu, resize
from selftrain.models.pspnet import PyramidPooling


def separable(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Sequential:
    """Make a 3x3 depthwise and a 1x1 convolution, without activation between (section 3.2.1)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False),
        nn.BatchNorm2d(in_channels),
        conv_bn_relu(in_channels, out_channels),
    )


def bottlenecks(in_channels: int, out_channels: int, *, stride: int) -> nn.Sequential:
    """Make three of MobileNetV2's inverted residuals, expansion 6; the first has the stride."""
    return nn.Sequential(
        InvertedResidual(in_channels, out_channels, stride, expand_ratio=6),
        InvertedResidual(out_channels, out_channels, 1, expand_ratio=6),
        InvertedResidual(out_channels, out_channels, 1, expand_ratio=6),
    )


class FastSCNNFeatures(Backbone):
    """The learning-to-downsample module and the global feature extractor (Table 1)."""

    low_channels = 64
    """Channels of the first output, at stride 8."""
    deep_channels = 128
    """Channels of the second output, at stride 32."""

    def __init__(self) -> None:
        """Build both modules with random weights."""
        super().__init__()
        self.learning_to_downsample = nn.Sequential(
            conv_bn_relu(3, 32, 3, stride=2),
            separable(32, 48, stride=2),
            separable(48, 64, stride=2),
        )
        self.global_features = nn.Sequential(
            bottlenecks(64, 64, stride=2),
            bottlenecks(64, 96, stride=2),
            bottlenecks(96, 128, stride=1),
            PyramidPooling(128, 128),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map normalised images (B, 3, H, W) to (B, 64, H / 8, W / 8), (B, 128, H / 32, W / 32)."""
        low = self.run(self.learning_to_downsample, images)
        return low, self.run(self.global_features, low)


class FastSCNNHead(nn.Module):
    """The feature fusion module and the classifier (sections 3.2.3 and 3.2.4)."""

    def __init__(self, num_classes: int, *, dropout: float = 0.1) -> None:
        """Build both modules with random weights; `dropout` comes before the last layer."""
        super().__init__()
        self.low = nn.Sequential(nn.Conv2d(64, 128, 1, bias=False), nn.BatchNorm2d(128))
        self.deep = nn.Sequential(
            # Dilated by the upsampling factor, so that it reaches the next true value (Table 3).
            conv_bn_relu(128, 128, 3, dilation=4, groups=128),
            nn.Conv2d(128, 128, 1, bias=False),
            nn.BatchNorm2d(128),
        )
        self.relu = nn.ReLU(inplace=True)
        self.classify = nn.Sequential(
            separable(128, 128),
            separable(128, 128),
            nn.Dropout(dropout),
            nn.Conv2d(128, num_classes, 1),
        )

    def forward(self, low: Tensor, deep: Tensor) -> Tensor:
        """Map (B, 64, h, w) and (B, 128, h', w') to logits (B, num_classes, h, w)."""
        deep = self.deep(resize(deep, (low.shape[-2], low.shape[-1])))
        logits: Tensor = self.classify(self.relu(self.low(low) + deep))
        return logits
