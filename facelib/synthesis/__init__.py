"""Latents to face pictures: one interface for all generators, and the built-in ones."""

from facelib.synthesis.generator import FaceGenerator, available_generators, build_generator, register_generator
from facelib.synthesis.latents import factor_slices, identity_latents, image_latents

__all__ = [
    "FaceGenerator",
    "available_generators",
    "build_generator",
    "factor_slices",
    "identity_latents",
    "image_latents",
    "register_generator",
]
