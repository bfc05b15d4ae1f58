"""Swin-T (Liu et al. 2021, arXiv 2103.14030) as a feature extractor."""

from torch import Tensor, nn
from torchvision.models import swin_t

from selftrain.errors import InputError
from selftrain.models.layers import Backbone, crop_to_stride, pad_to_multiple


class SwinTiny(Backbone):
    """torchvision's `swin_t()` up to its last normalisation, under its names."""

    low_channels = 96
    """Channels of the first output, at stride 4."""
    deep_channels = 768
    """Channels of the second output, at stride 32."""

    def __init__(self, output_stride: int) -> None:
        """Build the network with random weights.

        Args:
            output_stride: Pixels of the image for each pixel of the deep features: only 32.
        """
        super().__init__()
        if output_stride != 32:
            raise InputError(
                f"output_stride is {output_stride}, but the windows of swin_t cannot be dilated: "
                "set it to 32"
            )
        whole = swin_t(weights=None)
        self.features: nn.Sequential = whole.features
        self.norm: nn.LayerNorm = whole.norm

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Extract features.

        Args:
            images: (B, 3, H, W), normalised.

        Returns:
            (B, 96, H / 4, W / 4) and (B, 768, H / 32, W / 32), sizes rounded up.
        """
        # Within, channels come last: (B, h, w, C).
        low = self.run(self._blocks(1), self.features[0](pad_to_multiple(images, 32)))
        deep = low
        for position in (2, 4, 6):  # each makes the features coarser for the stage behind it
            deep = self.run([self.features[position], *self._blocks(position + 1)], deep)
        low, deep = low.permute(0, 3, 1, 2), self.norm(deep).permute(0, 3, 1, 2)
        return crop_to_stride(low, images, 4), crop_to_stride(deep, images, 32)

    def _blocks(self, stage: int) -> list[nn.Module]:
        return list(self.features[stage].children())
