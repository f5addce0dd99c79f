"""DiscoFaceGAN as a face generator: latents as pure functions of (seed, identity, image), images from PyTorch.

Identity codes have 128 numbers, factors expression 32 | illumination 16 | rotation 3 | noise 32, all N(0, 1).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from facelib.synthesis.discofacegan.networks import DiscoFaceGAN
from facelib.synthesis.discofacegan.topology import Topology
from facelib.synthesis.discofacegan.usynthface import USynthFaceStream
from facelib.synthesis.discofacegan.vae import LATENTS, LatentDecoders
from facelib.synthesis.discofacegan.weights import LICENSE, load_weights, read_header
from facelib.synthesis.generator import register_generator
from facelib.synthesis.latents import FACTOR_SIZE, FACTORS, IDENTITY_SIZE, identity_latents, image_latents
from facelib.utils.devices import check_device, resolve_device

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
# Images in one pass by device: more are not faster on a CPU. 64 images of 256 pixels take 3 GB of a GPU.
_BATCH_SIZES = {"cpu": 8, "cuda": 64}


@register_generator("discofacegan")
class DiscoFaceGANGenerator:
    """Faces of DiscoFaceGAN (Deng et al., CVPR 2020) from weights that the user has placed and converted.

    The weights are read at the first image; before that only the file's header.

    Args:
        folder: path or URI of the converted weights, see `python -m facelib.synthesis.discofacegan.convert`.
        truncation: share of an identity's own style in the first 8 layers, 0 to 1; published 0.7.
        batch_size: images in one pass; the last pass of a call is filled up to it. None: 8 on a CPU, 64 on a GPU.
            Images made with another batch size, device or library version may differ by 1 in a few bytes in ten
            thousand.
        device: `auto` (CUDA when PyTorch sees it, else CPU), `cpu` or `cuda`.
        bfloat16: convolutions in bfloat16: faster, not equal to float32 byte for byte.
        channels_last: memory format of the feature maps: faster, see `DiscoFaceGAN`.
        latents: `independent`: each (seed, identity, image) by itself. `usynthface`: the very numbers of USynthFace's
            script (its seed is 42), where identities depend on stream_images and are at most a million.
        stream_images: images of each identity in that stream (its --batchsize).
        factor_mode: what varies between an identity's images in that stream: 0 all, 1 expression, 2 illumination,
            3 rotation.

    Raises:
        FileNotFoundError: weights are missing or not converted; the message lists what belongs where.
        ValueError: a setting out of range, or a damaged file.
    """

    name = "discofacegan"
    identity_size = IDENTITY_SIZE
    license = LICENSE

    def __init__(
        self,
        folder: str,
        truncation: float = 0.7,
        batch_size: int | None = None,
        device: str = "auto",
        bfloat16: bool = False,
        channels_last: bool = False,
        latents: str = "independent",
        stream_images: int = 128,
        factor_mode: int = 0,
    ) -> None:
        if not 0 <= truncation <= 1:
            raise ValueError(f"truncation is {truncation}, expected 0 to 1")
        if batch_size is not None and not 1 <= batch_size <= 4096:
            raise ValueError(f"batch_size is {batch_size}, expected 1 to 4096")
        check_device(device)
        if latents not in ("independent", "usynthface"):
            raise ValueError(f"latents is {latents!r}: choose 'independent' or 'usynthface'")
        if latents == "independent" and factor_mode != 0:
            raise ValueError(f"factor_mode is {factor_mode}: it needs latents='usynthface'")
        header = read_header(folder)
        self.folder, self.truncation, self.batch_size = str(folder), truncation, batch_size
        self.device, self.bfloat16, self.channels_last = device, bfloat16, channels_last
        self.image_size: int = Topology.from_static_kwargs(header["static_kwargs"]).resolution
        self.weights_hash: str | None = header["sha256"]
        self.factors: dict[str, int] = dict(FACTORS)
        self._stream = USynthFaceStream(stream_images, factor_mode) if latents == "usynthface" else None
        self.identities: int | None = self._stream.identities if self._stream else None
        self._networks: tuple[LatentDecoders, DiscoFaceGAN] | None = None

    def identity_codes(self, seed: int, identities: Integers) -> Floats:
        """Codes float32 [N, 128] of identities int64 [N]."""
        if self._stream:
            return self._stream.codes(seed, identities)
        return identity_latents(seed, identities)

    def image_factors(self, seed: int, identities: Integers, indices: Integers) -> Floats:
        """Factors float32 [N, 83] of image `indices[n]` of `identities[n]`, both int64 [N]."""
        if self._stream:
            return self._stream.factors(seed, identities, indices)
        return image_latents(seed, identities, indices)

    def render(self, codes: Floats, factors: Floats) -> npt.NDArray[np.uint8]:
        """RGB images uint8 [N, R, R, 3] of codes [N, 128] and factors [N, 83].

        Raises:
            ValueError: wrong shapes, or values that are not finite.
        """
        codes, factors = np.asarray(codes, np.float32), np.asarray(factors, np.float32)
        rows = len(codes) if codes.ndim else 0
        if codes.shape != (rows, IDENTITY_SIZE) or factors.shape != (rows, FACTOR_SIZE):
            raise ValueError(
                f"codes {codes.shape} and factors {factors.shape} must be [N, {IDENTITY_SIZE}] and [N, {FACTOR_SIZE}]"
            )
        size = self.image_size
        if not rows:
            return np.zeros((0, size, size, 3), np.uint8)
        decoders, generator = self._loaded()
        # One pass at a time through both, all of one size: no image depends on how many are asked for.
        latents, varied = np.concatenate([codes, factors], axis=1), LATENTS
        images = []
        size = generator.batch_size
        for start in range(0, rows, size):
            batch = latents[start : start + size]
            filled = np.concatenate([batch, np.repeat(batch[:1], size - len(batch), axis=0)])
            coefficients = decoders.decode(filled[:, :varied], filled[:, varied:])
            images.append(generator.synthesize(coefficients, self.truncation)[: len(batch)])
        return np.concatenate(images)

    def _loaded(self) -> tuple[LatentDecoders, DiscoFaceGAN]:
        if self._networks is None:
            weights = load_weights(self.folder)
            if weights.sha256 != self.weights_hash:
                raise ValueError(f"{self.folder}: the weights have changed since this generator was made")
            device = resolve_device(self.device)
            generator = DiscoFaceGAN(
                weights.networks,
                weights.average_w_id,
                batch_size=self.batch_size or _BATCH_SIZES[device.type],
                bfloat16=self.bfloat16,
                channels_last=self.channels_last,
                device=device.type,
            )
            self._networks = LatentDecoders(weights.decoders, device.type), generator
        return self._networks
