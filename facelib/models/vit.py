"""Vision transformer for faces, as insightface's arcface_torch trains it (Dosovitskiy et al. 2021, arXiv 2010.11929).

Patches of 9 pixels without a class token; the embedding is a linear function of all tokens. Parameter names and shapes
are those of arcface_torch's checkpoints, so their tensors load by name.

Shapes: N batch, T tokens (patches of an image), W width of a token, D embedding size, H = W = image_size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facelib.models.iresnet import check_common_settings, check_images
from facelib.models.registry import register_backbone


@register_backbone("vit-t", width=256, depth=12)
@register_backbone("vit-s", width=512, depth=12)
@register_backbone("vit-b", width=512, depth=24)
@register_backbone("vit-l", width=768, depth=24, drop_path=0.05, mask_ratio=0.05)
class VisionTransformer(nn.Module):
    """Images float [N, 3, H, W] in [-1, 1] -> embeddings float32 [N, D], not normalized.

    Args:
        embedding_size: D.
        dropout: probability of zeroing a token's input values in training, in [0, 1).
        width: of a token, a multiple of `heads`.
        depth: blocks.
        heads: of the attention.
        patch_size: side of a patch in pixels; a rest of the image at the right and bottom is left out.
        image_size: side of the square input in pixels, a multiple of 16.
        drop_path: probability of skipping the last block in training, in [0, 1); earlier ones less, linearly.
        mask_ratio: share of the tokens that are hidden from the blocks in training, in [0, 1).

    Raises:
        ValueError: a setting is out of its range.
    """

    def __init__(
        self,
        embedding_size: int = 512,
        dropout: float = 0.0,
        width: int = 512,
        depth: int = 12,
        heads: int = 8,
        patch_size: int = 9,
        image_size: int = 112,
        drop_path: float = 0.1,
        mask_ratio: float = 0.1,
    ) -> None:
        super().__init__()
        check_common_settings(embedding_size, dropout, image_size)
        for name, value in (("width", width), ("depth", depth), ("heads", heads), ("patch_size", patch_size)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} = {value!r}: must be a whole number of at least 1")
        if width % heads or patch_size > image_size:
            raise ValueError(f"width = {width} must be a multiple of heads = {heads}, and a patch fit into the image")
        for name, share in (("drop_path", drop_path), ("mask_ratio", mask_ratio)):
            if not 0 <= share < 1:
                raise ValueError(f"{name} = {share!r}: must be in [0, 1)")
        self.image_size, self.mask_ratio = image_size, mask_ratio
        tokens = (image_size // patch_size) ** 2
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)})
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, width))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, drop_path * i / max(depth - 1, 1)) for i in range(depth))
        self.norm = nn.LayerNorm(width)
        self.feature = nn.Sequential(
            nn.Linear(tokens * width, width, bias=False),
            nn.BatchNorm1d(width, eps=2e-5),
            nn.Linear(width, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size, eps=2e-5),
        )
        self._initialize()

    def forward(self, images: Tensor) -> Tensor:
        """Float [N, 3, H, W] in [-1, 1] -> [N, D].

        Raises:
            ValueError: images have another shape than this network was built for.
        """
        check_images(images, self.image_size)
        tokens = self.patch_embed["proj"](images).flatten(2).transpose(1, 2)  # [N, T, W]
        tokens = self.pos_drop(tokens + self.pos_embed)
        order = self._draw_order(tokens) if self.training and self.mask_ratio else None
        if order is not None:
            kept = order[:, : round(order.shape[1] * (1 - self.mask_ratio))]
            tokens = tokens.gather(1, kept[:, :, None].expand(-1, -1, tokens.shape[2]))
        for block in self.blocks:
            tokens = block(tokens)
        with torch.autocast(images.device.type, enabled=False):
            tokens = self.norm(tokens.float())
            if order is not None:
                tokens = self._fill_hidden(tokens, order)
            return self.feature(tokens.flatten(1))

    def _draw_order(self, tokens: Tensor) -> Tensor:
        """A random order of the tokens of every image, [N, T]; those at its end are hidden."""
        return torch.rand(tokens.shape[:2], device=tokens.device).argsort(dim=1)

    def _fill_hidden(self, tokens: Tensor, order: Tensor) -> Tensor:
        """Tokens in their places again, [N, T, W], with `mask_token` where they were hidden."""
        filled = self.mask_token.expand(len(tokens), order.shape[1], -1)
        kept = order[:, : tokens.shape[1], None].expand(-1, -1, tokens.shape[2])
        return filled.scatter(1, kept, tokens)

    def _initialize(self) -> None:
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


class Block(nn.Module):
    """Attention and a two-layer perceptron, each added to its input (pre-norm)."""

    def __init__(self, width: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self._skip(self.attn(self.norm1(tokens)))
        return tokens + self._skip(self.mlp["fc2"](F.relu6(self.mlp["fc1"](self.norm2(tokens)))))

    def _skip(self, change: Tensor) -> Tensor:
        """Stochastic depth (Huang et al. 2016): no change for some images, the others' scaled up to the same mean."""
        if not self.training or not self.drop_path:
            return change
        kept = torch.rand(len(change), 1, 1, device=change.device) >= self.drop_path
        return change * kept / (1 - self.drop_path)


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        count, length, width = tokens.shape
        query, key, value = self.qkv(tokens).view(count, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(count, length, width))
