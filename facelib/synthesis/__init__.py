"""Latents to face images: one interface for all generators, and the built-in ones."""

from facelib.synthesis.generator import (
    FaceGenerator,
    available_generators,
    build_generator,
    generator_version,
    register_generator,
)
from facelib.synthesis.latents import factor_slices, identity_latents, image_latents

__all__ = [
    "FaceGenerator",
    "available_generators",
    "build_generator",
    "factor_slices",
    "generator_version",
    "identity_latents",
    "image_latents",
    "register_generator",
]
