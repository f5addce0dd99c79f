"""MobileFaceNet (Chen et al. 2018, arXiv 1804.07573): a million parameters, for phones and servers without GPUs.

Inverted residual bottlenecks with depthwise convolutions; a global depthwise convolution replaces average pooling,
so that the corners of the 7x7 map may weigh less than its center, and a linear 1x1 convolution gives the embedding.

Depthwise convolutions do few multiplications but move as much memory as dense ones: on processors with matrix units the
narrow IResNets train faster (see docs of the measured results).

Shapes: N batch, D embedding size, H = W = image_size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from facelib.models.iresnet import check_common_settings, check_images, scale_channels
from facelib.models.registry import register_backbone

# Table 1 of the paper: expansion, output channels, stride of the first repetition; the repetitions are 1 and `blocks`.
BOTTLENECKS = ((2, 64, 2), (4, 128, 2), (2, 128, 1), (4, 128, 2), (2, 128, 1))


@register_backbone("mobilefacenet")
@register_backbone("mbf", scale=2)  # arcface_torch's
@register_backbone("mbf-large", scale=4, blocks=(2, 8, 12, 4))
class MobileFaceNet(nn.Module):
    """Images float [N, 3, H, W] in [-1, 1] -> embeddings float32 [N, D], not normalized.

    Args:
        embedding_size: D (the paper uses 128).
        dropout: probability of zeroing an input of the last linear layer, in [0, 1).
        width: multiplies every channel count (rounded to a multiple of 8).
        image_size: side of the square input in pixels, a multiple of 16.
        scale: multiplies the channels between blocks, not those inside them (arcface_torch: 2, large: 4).
        blocks: bottlenecks at half, quarter, eighth and sixteenth of the side; the paper has one depthwise convolution
            in place of the first.

    Raises:
        ValueError: a setting is out of its range.
    """

    def __init__(
        self,
        embedding_size: int = 512,
        dropout: float = 0.0,
        width: float = 1.0,
        image_size: int = 112,
        scale: int = 1,
        blocks: Sequence[int] = (1, 4, 6, 2),
    ) -> None:
        super().__init__()
        check_common_settings(embedding_size, dropout, image_size)
        if not 0 < width <= 4:
            raise ValueError(f"width = {width!r}: must be in (0, 4]")
        if scale not in (1, 2, 4):
            raise ValueError(f"scale = {scale!r}: must be 1, 2 or 4")
        if len(blocks) != 4 or any(not isinstance(count, int) or count < 1 for count in blocks):
            raise ValueError(f"blocks = {blocks!r}: give the number of bottlenecks at four sizes, each at least 1")
        self.image_size = image_size
        first, last = scale_channels(64, width), scale_channels(512, width)
        channels = first * scale
        stem = [ConvolutionUnit(3, channels, kernel_size=3, stride=2, padding=1)]
        bottlenecks: list[nn.Module] = []
        if blocks[0] == 1:
            stem.append(ConvolutionUnit(channels, channels, kernel_size=3, padding=1, groups=first))
        else:
            bottlenecks += [Bottleneck(channels, channels, 2 * first, 1) for _ in range(blocks[0])]
        self.stem = nn.Sequential(*stem)
        repetitions = (1 + blocks[1], 1, blocks[2], 1, blocks[3])
        for (expansion, base, stride), count in zip(BOTTLENECKS, repetitions, strict=True):
            outputs = scale_channels(base, width) * scale
            for index in range(count):
                hidden = channels // scale * expansion
                bottlenecks.append(Bottleneck(channels, outputs, hidden, stride if index == 0 else 1))
                channels = outputs
        self.blocks = nn.Sequential(*bottlenecks)
        self.expand = ConvolutionUnit(channels, last, kernel_size=1)
        self.pool = ConvolutionUnit(last, last, kernel_size=image_size // 16, groups=last, activation=False)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(last, embedding_size, bias=False)
        self.features = nn.BatchNorm1d(embedding_size)
        self.features.weight.requires_grad = False  # as in IResNet: the embedding's scale belongs to the loss
        self._initialize()

    def forward(self, images: Tensor) -> Tensor:
        """Float [N, 3, H, W] in [-1, 1] -> [N, D].

        Raises:
            ValueError: images have another shape than this network was built for.
        """
        check_images(images, self.image_size)
        x = self.pool(self.expand(self.blocks(self.stem(images))))
        x = self.dropout(torch.flatten(x, 1))
        with torch.autocast(images.device.type, enabled=False):
            return self.features(self.fc(x.to(self.fc.weight.dtype)))

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")


class ConvolutionUnit(nn.Module):
    """Convolution, batch normalization and, unless the unit is linear, PReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        activation: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel_size, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs) if activation else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.prelu(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1 projection; the input is added where shapes agree."""

    def __init__(self, inputs: int, outputs: int, hidden: int, stride: int) -> None:
        super().__init__()
        self.expand = ConvolutionUnit(inputs, hidden, kernel_size=1)
        self.depthwise = ConvolutionUnit(hidden, hidden, kernel_size=3, stride=stride, padding=1, groups=hidden)
        self.project = ConvolutionUnit(hidden, outputs, kernel_size=1, activation=False)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.depthwise(self.expand(x)))
        return out + x if self.shortcut else out
