"""MobileStyleGAN as a face generator: latents as pure functions of (seed, identity, image), images from PyTorch."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files

import numpy as np
import numpy.typing as npt
import torch

from facelib.synthesis.generator import register_generator
from facelib.synthesis.latents import factor_slices, identity_latents, image_latents
from facelib.synthesis.mobilestylegan.networks import CUTS, IMAGE_SIZE, MappingNetwork, SynthesisNetwork, style_count
from facelib.synthesis.mobilestylegan.readout import load_readout, readout_name
from facelib.synthesis.mobilestylegan.styles import DIRECTIONS, FACTORS, StyleComposer, check_widths, load_directions
from facelib.synthesis.mobilestylegan.weights import LICENSE, STYLE, files_sha256, load_weights, read_files
from facelib.utils.devices import check_device, exact_float32, resolve_device

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
_GPU_BATCH = 64
_FACTOR_SIZE = sum(FACTORS.values())


@register_generator("mobilestylegan")
class MobileStyleGANGenerator:
    """Faces of MobileStyleGAN (Belousov 2021) from the weights in the wheel `random-face`.

    Image j of identity i is a function of (seed, i, j). Bit for bit: on CPUs of one instruction set, whatever the
    number of rows asked for, because every image is a pass of its own; on one type of GPU with one `batch_size`,
    because the last pass is filled up to it. Across devices, precisions or library versions images look alike but
    differ by 1 in some bytes.

    Args:
        folder: path or URI of a folder with the four IR files; None takes them from the installed wheel.
        image_size: 128 or 256 (the network stopped at its 64² or 128² features and read out), or 1024 (all of it).
        truncation: share of an identity's distance from the mean face, 0 to 1: less gives more usual faces.
        vary: the factors that vary between an identity's images, of `factors`; None: all.
        widths: attribute → its standard deviation within an identity, where it is not to be that in `styles.WIDTHS`.
        precision: `float32`, or `bfloat16`: faster, other bytes.
        batch_size: images in one pass on a GPU; on a CPU a pass is one image.
        device: `auto` (CUDA when PyTorch sees it, else CPU), `cpu` or `cuda`; GPU memory is taken as needed.
        threads: CPU threads of PyTorch while images are made.

    Raises:
        FileNotFoundError: the weights are missing; the message says how to get them.
        ValueError: a setting out of range, or a damaged file.
    """

    name = "mobilestylegan"
    version = 2  # 2: another read-out, nearer to the whole network
    identity_size = STYLE
    identities: int | None = None
    license = LICENSE

    def __init__(
        self,
        folder: str | None = None,
        image_size: int = 128,
        truncation: float = 0.9,
        vary: Sequence[str] | None = None,
        widths: Mapping[str, float] | None = None,
        precision: str = "float32",
        batch_size: int = _GPU_BATCH,
        device: str = "auto",
        threads: int = 1,
    ) -> None:
        sizes = (*(2 * cut for cut in CUTS), IMAGE_SIZE)
        if image_size not in sizes:
            raise ValueError(f"image_size is {image_size}: choose one of {', '.join(map(str, sizes))}")
        if not 0 <= truncation <= 1:
            raise ValueError(f"truncation is {truncation}, expected 0 to 1")
        unknown = set(vary or ()) - FACTORS.keys()
        if unknown:
            raise ValueError(f"vary has unknown factors {sorted(unknown)}; there are {', '.join(FACTORS)}")
        check_widths(widths or {})
        if precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision is {precision!r}: choose 'float32' or 'bfloat16'")
        for setting, value in (("batch_size", batch_size), ("threads", threads)):
            if not 1 <= value <= 4096:
                raise ValueError(f"{setting} is {value}, expected 1 to 4096")
        check_device(device)
        self.folder, self.image_size, self.truncation = folder, image_size, truncation
        self.vary, self.widths = vary, dict(widths or {})
        self.precision, self.batch_size, self.device, self.threads = precision, batch_size, device, threads
        self.factors: dict[str, int] = dict(FACTORS)
        self.weights_hash: str | None = _weights_hash(folder, self._cut)
        self._networks: _Networks | None = None

    def identity_codes(self, seed: int, identities: Integers) -> Floats:
        """Codes float32 [N, 512] of identities int64 [N]."""
        return identity_latents(seed, identities, STYLE)

    def image_factors(self, seed: int, identities: Integers, indices: Integers) -> Floats:
        """Factors float32 [N, F] of image `indices[n]` of `identities[n]`, both int64 [N]; 0 in those not varied."""
        factors = image_latents(seed, identities, indices, _FACTOR_SIZE)
        for name, place in factor_slices(FACTORS).items():
            if self.vary is not None and name not in self.vary:
                factors[:, place] = 0
        return factors

    def render(self, codes: Floats, factors: Floats) -> npt.NDArray[np.uint8]:
        """RGB images uint8 [N, R, R, 3] of codes [N, 512] and factors [N, F].

        Raises:
            ValueError: wrong shapes.
        """
        codes, factors = np.asarray(codes, np.float32), np.asarray(factors, np.float32)
        rows = len(codes) if codes.ndim else 0
        if codes.shape != (rows, STYLE) or factors.shape != (rows, _FACTOR_SIZE):
            raise ValueError(
                f"codes {codes.shape} and factors {factors.shape} must be [N, {STYLE}], [N, {_FACTOR_SIZE}]"
            )
        images = np.zeros((rows, self.image_size, self.image_size, 3), np.uint8)
        with cpu_threads(self.threads), torch.inference_mode(), repeatable_cuda():
            if self._networks is None:
                self._networks = _Networks(self)
            size = self.batch_size if self._networks.device.type == "cuda" else 1
            for start in range(0, rows, size):
                # All passes have one size: no image depends on how many are asked for.
                batch = np.arange(start, start + size).clip(max=rows - 1)
                made = self._networks.render(codes[batch], factors[batch])
                images[start : start + size] = made[: rows - start]
        return images

    @property
    def _cut(self) -> int | None:
        return None if self.image_size == IMAGE_SIZE else self.image_size // 2


class _Networks:
    """The networks of a generator on their device, made at the first image."""

    def __init__(self, cfg: MobileStyleGANGenerator) -> None:
        weights = load_weights(cfg.folder)
        self.device = resolve_device(cfg.device)
        dtype = torch.bfloat16 if cfg.precision == "bfloat16" else torch.float32
        cut = cfg._cut
        mapping = MappingNetwork(weights.tables).to(self.device)
        layers = style_count(cut) if cut else 23
        self.compose = StyleComposer(mapping, load_directions(), layers, cfg.truncation, cfg.widths)
        self.synthesis = SynthesisNetwork(weights.tables, cut).set_precision(dtype).to(self.device)
        self.readout = load_readout(cut).set_precision(dtype).to(self.device) if cut else None

    def render(self, codes: Floats, factors: Floats) -> npt.NDArray[np.uint8]:
        styles = self.compose(torch.from_numpy(codes).to(self.device), torch.from_numpy(factors).to(self.device))
        images = self.synthesis(styles)
        if self.readout is not None:
            images = self.readout(images, styles[:, -1])
        pixels = ((images.float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).cpu().numpy()


@contextlib.contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """PyTorch's CPU threads within the block; they decide how sums are split, and so the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def repeatable_cuda() -> Iterator[None]:
    """On GPUs: the same routine every time, and float32 without TF32."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        with exact_float32():
            yield
    finally:
        torch.backends.cudnn.deterministic = before


def _weights_hash(folder: str | None, cut: int | None) -> str:
    """SHA-256 of all that images are made from: the published files, the directions and the read-out."""
    digest = hashlib.sha256(files_sha256(read_files(folder)).encode())
    for name in (DIRECTIONS, *([readout_name(cut)] if cut else [])):
        digest.update(files("facelib.synthesis.mobilestylegan").joinpath(name).read_bytes())
    return digest.hexdigest()
