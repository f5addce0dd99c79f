"""The smallest generator plug-in: an identity is a color, an image a stripe."""

import numpy as np

from facelib.synthesis import identity_latents, image_latents


class StripeGenerator:
    """Pictures with one bright stripe on the identity's color. Settings are the constructor's keyword arguments."""

    name = "stripes"
    identity_size = 3
    identities = None  # as many as one likes
    license = "public domain"
    weights_hash = None  # it has no weights

    def __init__(self, image_size: int = 64) -> None:
        self.image_size = image_size
        self.factors = {"stripe": 1}

    def identity_codes(self, seed, identities):
        return identity_latents(seed, identities, size=3)

    def image_factors(self, seed, identities, indices):
        return image_latents(seed, identities, indices, size=1)

    def render(self, codes, factors):
        size = self.image_size
        colors = (127.5 + 40 * np.clip(codes, -3, 3)).astype(np.uint8)
        images = np.broadcast_to(colors[:, None, None], (len(codes), size, size, 3)).copy()
        positions = ((np.clip(factors[:, 0], -3, 3) + 3) / 6 * (size - 1)).astype(int)
        images[np.arange(len(codes)), positions] = 255
        return images
