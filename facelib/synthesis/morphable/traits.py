"""Identity code -> traits: what makes one person differ from another, in standard deviations.

A fixed orthogonal matrix first mixes the code, so that every code number touches every trait. A trait is then its own
normal number plus the mean of the person's population cluster (blurred: most identities are mixtures), sex, age and
weight. These correlations are what makes people differ as people do: broad and flat features, colors and hair come
together.

Shapes: a code is float32 [128]; `Traits` holds plain floats.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from facelib.synthesis.latents import IDENTITY_SIZE, mix64

CLUSTERS = 6
# Own normal number of each trait; order is part of the identity code's meaning.
_TABLE = """
melanin redness hair_dark hair_red hair_curl beard_growth gray head_width head_height head_depth
forehead_height forehead_slope temple jaw_width jaw_angle chin_width chin_height chin_forward cheekbone cheek_fat
face_length midface prognathism brow_ridge glabella neck_width nose_length nose_width nose_bridge nose_root nose_hump
nose_tip nose_tip_up ala_size nostril nose_twist columella eye_distance eye_size eye_tilt eye_height eye_depth
eye_fold eye_bulge lid_hood lower_lid eye_round iris_size brow_height brow_arch brow_thick brow_tilt brow_length
brow_gap brow_dark mouth_width lip_upper lip_lower cupid mouth_height mouth_corner philtrum lip_color lip_forward
ear_size ear_out ear_height wrinkle sag bags naso_fold freckles moles eye_color blotch glasses makeup hair_style
hair_length hairline balding smile_habit beard_kind gap_teeth pores
"""
NAMES = tuple(_TABLE.split())
_FIRST_RANDOM = 6 + 2 + len(NAMES)
RANDOM_MODES = IDENTITY_SIZE - _FIRST_RANDOM

# Rows: trait -> offsets of the six clusters, in standard deviations of the trait.
_CLUSTER_MEANS: dict[str, tuple[float, ...]] = {
    "melanin": (-1.5, -0.4, -0.8, 2.1, 1.0, 0.2),
    "redness": (0.7, 0.0, -0.3, -0.2, -0.2, 0.2),
    "hair_dark": (-1.5, 1.0, 2.2, 2.4, 2.2, 1.7),
    "hair_curl": (-0.2, 0.5, -1.3, 2.4, 0.2, -0.4),
    "beard_growth": (0.0, 1.0, -1.1, 0.1, 0.9, -0.4),
    "head_width": (-0.3, 0.0, 1.1, -0.6, -0.4, 0.6),
    "head_depth": (0.4, 0.2, -1.0, 0.5, 0.1, -0.3),
    "nose_width": (-0.8, -0.3, 0.3, 1.9, 0.1, 0.7),
    "nose_bridge": (0.7, 1.2, -1.4, -1.1, 0.6, 0.0),
    "nose_hump": (0.1, 0.9, -0.6, -0.5, 0.6, 0.5),
    "nose_root": (0.4, 0.7, -1.3, -0.5, 0.4, 0.0),
    "nose_length": (0.2, 0.8, -0.3, -0.5, 0.5, 0.3),
    "nose_tip": (-0.2, 0.4, -0.1, 0.8, 0.2, 0.4),
    "lip_upper": (-0.7, -0.2, 0.0, 1.7, 0.4, 0.2),
    "lip_lower": (-0.5, 0.0, 0.1, 1.5, 0.4, 0.2),
    "prognathism": (-0.4, -0.3, 0.3, 1.4, 0.0, 0.3),
    "eye_fold": (-0.7, -0.6, 2.3, -0.2, -0.5, 0.9),
    "eye_tilt": (-0.2, -0.1, 0.9, 0.1, 0.1, 0.5),
    "eye_depth": (0.6, 0.8, -1.2, -0.2, 0.7, -0.3),
    "eye_size": (0.0, 0.4, -0.7, 0.1, 0.6, -0.3),
    "eye_color": (-1.6, 0.6, 1.8, 2.0, 1.8, 1.3),
    "brow_ridge": (0.4, 0.6, -0.9, 0.2, 0.3, 0.0),
    "brow_thick": (-0.5, 0.9, -0.4, 0.0, 0.8, 0.0),
    "cheekbone": (-0.2, 0.0, 0.9, 0.3, -0.2, 0.8),
    "midface": (0.0, 0.0, 0.3, -0.2, -0.1, 0.3),
    "freckles": (1.0, 0.0, -0.3, -0.6, -0.5, 0.0),
    "face_length": (0.3, 0.4, 0.0, -0.1, 0.2, -0.2),
}
# Offset at full maleness (+1) and femaleness (-1).
_SEX: dict[str, float] = {
    "jaw_width": 0.8, "chin_width": 0.7, "chin_height": 0.5, "brow_ridge": 1.0, "glabella": 0.6, "nose_length": 0.4,
    "nose_width": 0.3, "brow_thick": 0.8, "brow_height": -0.8, "brow_arch": -0.6, "lip_upper": -0.5, "lip_lower": -0.4,
    "eye_size": -0.5, "face_length": 0.4, "neck_width": 1.0, "forehead_slope": 0.6, "makeup": -2.2, "jaw_angle": 0.6,
    "hair_length": -2.0, "cheek_fat": -0.3, "ear_size": 0.4, "lip_color": -0.3, "melanin": 0.15, "pores": 0.5,
}  # fmt: skip


@dataclass(frozen=True)
class Traits:
    """One person: traits in standard deviations, and the person's age (years), sex (-1..1) and weight (sigma)."""

    values: dict[str, float]
    modes: npt.NDArray[np.float32]
    clusters: npt.NDArray[np.float32]
    age: float
    male: float
    weight: float
    key: int

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    def random(self, stream: int) -> np.random.Generator:
        """Random numbers of this person's fine details (where the freckles are); another stream is independent."""
        return np.random.Generator(np.random.Philox(key=[self.key, stream]))


def traits_of(code: npt.NDArray[np.float32]) -> Traits:
    """The traits of one identity code, float32 [128]."""
    mixed = np.clip(_mixing() @ code.astype(np.float64), -2.8, 2.8)
    logits = 3.0 * mixed[:6]
    clusters = np.exp(logits - logits.max())
    clusters /= clusters.sum()
    male = float(np.tanh(2.2 * mixed[6]))
    age = _age(float(ndtr(mixed[7])))
    own = dict(zip(NAMES, mixed[8:_FIRST_RANDOM].tolist()))
    for name, means in _CLUSTER_MEANS.items():
        own[name] += float(clusters @ np.asarray(means))
    for name, offset in _SEX.items():
        own[name] += offset * male * min(1.0, max(0.25, (age - 8) / 10))
    weight = 0.8 * own["cheek_fat"] + 0.15 * male
    own = _grow(own, age)
    modes = mixed[_FIRST_RANDOM:].astype(np.float32)
    return Traits(own, modes, clusters.astype(np.float32), age, male, weight, key_of(code))


def key_of(numbers: npt.NDArray[np.float32]) -> int:
    """A 64-bit key of float32 numbers [n], for random details that belong to exactly these numbers."""
    bits = np.ascontiguousarray(numbers, dtype=np.float32).view(np.uint32).astype(np.uint64)
    return int(np.bitwise_xor.reduce(mix64(bits ^ mix64(np.arange(bits.size, dtype=np.uint64)))))


def _age(quantile: float) -> float:
    """Age in years: few children, most identities between 18 and 65."""
    return float(np.interp(quantile, [0, 0.05, 0.13, 0.35, 0.65, 0.88, 1.0], [4, 12, 19, 30, 47, 66, 88]))


def _grow(own: dict[str, float], age: float) -> dict[str, float]:
    """Children have small, round, soft faces with large eyes; the old have sagging, longer noses and ears."""
    child = max(0.0, (17 - age) / 13)
    old = max(0.0, (age - 32) / 45)
    for name, by_child, by_age in (
        ("eye_size", 1.6, -0.7), ("nose_length", -1.6, 0.7), ("nose_width", -0.6, 0.4), ("nose_bridge", -1.2, 0.2),
        ("jaw_width", -0.8, 0.0),
        ("chin_height", -1.2, 0.0), ("cheek_fat", 1.2, -0.3), ("brow_ridge", -1.4, 0.3), ("wrinkle", -2.0, 2.3),
        ("sag", -1.5, 2.2), ("bags", -1.5, 1.6),
        ("naso_fold", -1.8, 1.8), ("lip_upper", 0.3, -1.1), ("lip_lower", 0.2, -0.8), ("forehead_height", 0.9,
        0.3), ("beard_growth", -5.0, 0.3),
        ("gray", -6.0, 2.8), ("balding", -6.0, 1.0), ("ear_size", 0.4, 0.8), ("lid_hood", -0.8, 1.4),
        ("face_length", -1.6, 0.3), ("brow_thick", -0.6, 0.0),
        ("glasses", -0.6, 0.8), ("makeup", -4.0, -0.2), ("nose_tip_up", 0.8, -0.8), ("neck_width", -1.8, 0.2),
        ("head_width", 0.3, 0.0), ("blotch", -0.8, 1.0),
    ):  # fmt: skip
        own[name] += by_child * child + by_age * old
    return {name: float(np.clip(value, -3.6, 3.6)) for name, value in own.items()}


@lru_cache(maxsize=1)
def _mixing() -> npt.NDArray[np.float64]:
    """A fixed orthogonal matrix [128, 128] (Gram-Schmidt of fixed normal numbers, signs as they come)."""
    from facelib.synthesis.latents import identity_latents

    rows = identity_latents(20, np.arange(IDENTITY_SIZE)).astype(np.float64)
    q, r = np.linalg.qr(rows)
    return np.ascontiguousarray(q * np.sign(np.diag(r)))
