"""DiscoFaceGAN in PyTorch, from published weights that the user places (nothing is bundled or downloaded)."""

from facelib.synthesis.discofacegan.generator import DiscoFaceGANGenerator
from facelib.synthesis.discofacegan.network_pickle import NetworkTables, read_network_pickle
from facelib.synthesis.discofacegan.networks import DiscoFaceGAN
from facelib.synthesis.discofacegan.usynthface import USynthFaceStream
from facelib.synthesis.discofacegan.vae import LatentDecoders, read_decoder_checkpoint
from facelib.utils.safe_pickle import UnsafePickleError

__all__ = [
    "DiscoFaceGAN",
    "DiscoFaceGANGenerator",
    "LatentDecoders",
    "NetworkTables",
    "USynthFaceStream",
    "UnsafePickleError",
    "read_decoder_checkpoint",
    "read_network_pickle",
]
