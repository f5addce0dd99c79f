"""IResNet, the residual network of face recognition (Duta et al. 2020, arXiv 2004.04989; as trained by insightface).

A pre-activation residual network that keeps the full resolution in its stem, so a 112x112 face ends as a 7x7 map
that one fully connected layer turns into the embedding. Parameter names and shapes are those of the published
checkpoints (USynthFace, UNPG, arcface_torch), so their tensors load by name.

Four settings leave the published network, for CPUs, where moving feature maps costs more than multiplying them:
`width` scales the channels; `stem_stride=2` halves the resolution already in the stem, every stage works at half
the side, and the last stage keeps it, so that the map is 7x7 again; `stride_first` halves it in a block's first
convolution; `activation`.

Shapes: N batch, D embedding size, H = W = image_size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from facelib.models.registry import register_backbone

STAGE_CHANNELS = (64, 128, 256, 512)
REDUCTION = 16  # of the squeeze-and-excitation bottleneck
# For training on a few CPU cores: half the channels, on feature maps of half the side.
NARROW = {"width": 0.5, "stem_stride": 2, "stride_first": True, "activation": "relu"}


@register_backbone("iresnet")  # any depth: give `layers`
@register_backbone("iresnet18", layers=(2, 2, 2, 2))
@register_backbone("iresnet34", layers=(3, 4, 6, 3))
@register_backbone("iresnet50", layers=(3, 4, 14, 3))
@register_backbone("iresnet100", layers=(3, 13, 30, 3))
@register_backbone("iresnet200", layers=(6, 26, 60, 6))
@register_backbone("iresnet10-narrow", layers=(1, 1, 1, 1), **NARROW)
@register_backbone("iresnet18-narrow", layers=(2, 2, 2, 2), **NARROW)
class IResNet(nn.Module):
    """Images float [N, 3, H, W] in [-1, 1] -> embeddings float32 [N, D], not normalized.

    Args:
        layers: residual blocks in each of the four stages.
        embedding_size: D.
        dropout: probability of zeroing an input of the last fully connected layer, in [0, 1).
        use_se: squeeze-and-excitation in every block.
        width: multiplies every channel count (rounded to a multiple of 8, at least 16).
        image_size: side of the square input in pixels, a multiple of 16.
        stem_stride: 1 as published; 2 halves the resolution in the stem, and the last stage no more.
        activation: "prelu" as published, or "relu", which costs far less in the backward pass on CPUs.
        stride_first: halve the resolution in the first convolution of a block; as published it is the second.
        eps: of every BatchNorm; MagFace's networks have 2e-5.
        weight_init: of convolutions: "normal" (standard deviation 0.1, as USynthFace and arcface_torch) or "kaiming"
            (normal, by the outputs, He et al. 2015; as UNPG).
        train_scale: train the scale of the last normalization, as UNPG does; else it stays at one.

    Raises:
        ValueError: a setting is out of its range.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self,
        layers: Sequence[int],
        embedding_size: int = 512,
        dropout: float = 0.0,
        use_se: bool = False,
        width: float = 1.0,
        image_size: int = 112,
        stem_stride: int = 1,
        activation: str = "prelu",
        stride_first: bool = False,
        eps: float = 1e-5,
        weight_init: str = "normal",
        train_scale: bool = False,
    ) -> None:
        super().__init__()
        layers = tuple(layers)
        if len(layers) != 4 or any(not isinstance(count, int) or count < 1 for count in layers):
            raise ValueError(f"layers = {layers!r}: give the number of blocks of four stages, each at least 1")
        check_common_settings(embedding_size, dropout, image_size)
        if not 0 < width <= 4:
            raise ValueError(f"width = {width!r}: must be in (0, 4]")
        if stem_stride not in (1, 2):
            raise ValueError(f"stem_stride = {stem_stride!r}: must be 1 or 2")
        if not eps > 0:
            raise ValueError(f"eps = {eps!r}: must be above 0")
        if activation not in ("prelu", "relu"):
            raise ValueError(f"activation = {activation!r}: must be 'prelu' or 'relu'")
        if weight_init not in ("normal", "kaiming"):
            raise ValueError(f"weight_init = {weight_init!r}: must be 'normal' or 'kaiming'")
        self.image_size = image_size
        stages = [scale_channels(channels, width) for channels in STAGE_CHANNELS]
        stem = stages[0]
        # The order of construction is the order of the published state dicts.
        self.conv1 = nn.Conv2d(3, stem, kernel_size=3, stride=stem_stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.prelu = _activation(activation, stem)
        strides = (2, 2, 2, 2 // stem_stride)
        inputs = [stem, *stages]
        for index, count in enumerate(layers):
            blocks = []
            for block in range(count):
                channels = inputs[index] if block == 0 else stages[index]
                stride = strides[index] if block == 0 else 1
                blocks.append(
                    ResidualBlock(channels, stages[index], stride, block == 0, use_se, activation, stride_first)
                )
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))
        self.bn2 = nn.BatchNorm2d(stages[3])
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(stages[3] * (image_size // 16) ** 2, embedding_size)
        self.features = nn.BatchNorm1d(embedding_size)
        # The embedding's scale belongs to the loss, so the last normalization learns a shift only.
        self.features.weight.requires_grad = train_scale
        self._initialize(weight_init)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.eps = eps

    def forward(self, images: Tensor) -> Tensor:
        """Float [N, 3, H, W] in [-1, 1] -> [N, D].

        Raises:
            ValueError: images have another shape than this network was built for.
        """
        check_images(images, self.image_size)
        x = self.prelu(self.bn1(self.conv1(images)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.dropout(torch.flatten(self.bn2(x), 1))
        # Half precision would round 25,088 products to 8 bits right where identities are told apart.
        with torch.autocast(images.device.type, enabled=False):
            return self.features(self.fc(x.to(self.fc.weight.dtype)))

    def _initialize(self, weight_init: str) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and weight_init == "kaiming":
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, mean=0.0, std=0.1)


class ResidualBlock(nn.Module):
    """BN, 3x3 convolution, BN, PReLU, 3x3 convolution (strided), BN, optional SE, plus the (projected) input."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        project: bool,
        use_se: bool,
        activation: str,
        stride_first: bool,
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_first else (1, stride)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, kernel_size=3, stride=first, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = _activation(activation, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, kernel_size=3, stride=second, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if project:
            projection = nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs))
        self.se_block = SqueezeExcitation(outputs) if use_se else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(self.bn1(x))
        out = self.conv2(self.prelu(self.bn2(out)))
        out = self.bn3(out)
        if self.se_block is not None:
            out = self.se_block(out)
        return out + (x if self.downsample is None else self.downsample(x))


class SqueezeExcitation(nn.Module):
    """Channel gates from the globally averaged map (Hu et al. 2018), without biases as in the published weights."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // REDUCTION)
        self.fc1 = nn.Conv2d(channels, hidden, kernel_size=1, bias=False)
        self.fc2 = nn.Conv2d(hidden, channels, kernel_size=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean(dim=(2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(pooled))))


def scale_channels(channels: int, width: float) -> int:
    """channels * width, rounded to a multiple of 8, at least 16.

    With 8 channels the float32 channels-last backward pass of torch 2.14 corrupts memory on CPUs.
    """
    return max(16, round(channels * width / 8) * 8)


def check_common_settings(embedding_size: int, dropout: float, image_size: int) -> None:
    """Settings that every backbone shares.

    Raises:
        ValueError: names the setting, its value and its range.
    """
    if not isinstance(embedding_size, int) or embedding_size < 1:
        raise ValueError(f"embedding_size = {embedding_size!r}: must be a whole number of at least 1")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout = {dropout!r}: must be in [0, 1)")
    if not isinstance(image_size, int) or image_size < 16 or image_size % 16:
        raise ValueError(f"image_size = {image_size!r}: must be a multiple of 16")


def check_images(images: Tensor, image_size: int) -> None:
    """Raises ValueError unless images are floats [N, 3, image_size, image_size]."""
    if images.ndim != 4 or images.shape[1:] != (3, image_size, image_size):
        raise ValueError(
            f"backbone input has shape {list(images.shape)}, expected [N, 3, {image_size}, {image_size}]; "
            f"resize the images or build the backbone with another image_size"
        )
    if not images.is_floating_point():
        raise ValueError(f"backbone input is {images.dtype}; convert it with facelib.augmentation.to_network_input")


def _activation(name: str, channels: int) -> nn.Module:
    return nn.PReLU(channels) if name == "prelu" else nn.ReLU(inplace=True)
