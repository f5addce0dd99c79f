"""From images to embeddings in one object without PyTorch: detector, alignment, exported backbone.

Shape legend: N images, D embedding size.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from facelib.alignment import AlignedFace, Aligner, Rejection, build_detector
from facelib.alignment.aligner import SelectionRule
from facelib.data import decode_image
from facelib.export.onnx_model import OnnxEmbedder
from facelib.utils.arrays import l2_normalize

BATCH = 64


class FacePipeline:
    """Finds the face in each image, aligns it and embeds it.

    Args:
        onnx: file of `export_onnx`; its image spec says how faces are aligned.
        detector, options: see `build_detector`; loaded with the first image that is no crop yet.
        min_score: faces the detector scores lower are ignored, 0 to 1.
        selection: which of several faces is taken, see `select_face`.
    """

    def __init__(
        self,
        onnx: str | os.PathLike[str],
        detector: str = "retinaface",
        options: dict[str, Any] | None = None,
        min_score: float = 0.8,
        selection: SelectionRule = "largest_central",
    ) -> None:
        self.embedder = OnnxEmbedder(onnx)
        self._detector = (detector, options or {}, min_score, selection)
        self._aligner: Aligner | None = None

    def __call__(self, pictures: Sequence[bytes], aligned: bool = False, flip: bool = True) -> list[dict[str, Any]]:
        """One result per image, in their order.

        Args:
            images: JPEG, PNG, BMP or WebP bytes.
            aligned: they are crops of the right size already.
            flip: add the embedding of the flipped face before normalizing.

        Returns:
            dicts with `embedding` (D floats of length 1; empty when rejected), `score`, `box` (left, top, right,
            bottom), `landmarks` (x and y of eyes, nose, mouth corners; both in pixels of the image, empty without
            detection), `faces` (how many there are) and `rejected` (why there is no embedding; empty otherwise).
        """
        results: list[dict[str, Any]] = []
        for begin in range(0, len(pictures), BATCH):
            results += self._batch(pictures[begin : begin + BATCH], aligned, flip)
        return results

    def _batch(self, pictures: Sequence[bytes], aligned: bool, flip: bool) -> list[dict[str, Any]]:
        results = [_empty() for _ in pictures]
        decoded: dict[int, Any] = {}
        for number, data in enumerate(pictures):
            try:
                decoded[number] = decode_image(data)
            except ValueError as error:
                results[number]["rejected"] = str(error)
        crops = self._crops(decoded, results) if not aligned else decoded
        size = self.embedder.size
        for number in [n for n, crop in crops.items() if crop.shape != (size, size, 3)]:
            height, width = crops.pop(number).shape[:2]
            results[number]["rejected"] = f"{width}x{height} pixels; an aligned face has {size}x{size}"
        if crops:
            embeddings = self.embedder.embed(np.stack(list(crops.values())), flip)
            embeddings = l2_normalize(embeddings)
            for number, embedding in zip(crops, embeddings, strict=True):
                results[number]["embedding"] = embedding.tolist()
        return results

    def _crops(self, pictures: dict[int, Any], results: list[dict[str, Any]]) -> dict[int, Any]:
        if self._aligner is None:
            name, options, min_score, selection = self._detector
            template = self.embedder.image_spec.get("template", "arcface")
            self._aligner = Aligner(
                build_detector(name, **options),
                template=template,
                size=self.embedder.size,
                min_score=min_score,
                selection=selection,
            )
        crops = {}
        for number, found in zip(pictures, self._aligner.align(list(pictures.values())), strict=True):
            if isinstance(found, Rejection):
                results[number]["rejected"] = f"{found.reason}: {found.detail}"
            else:
                results[number].update(_detection(found))
                crops[number] = found.image
        return crops


def _empty() -> dict[str, Any]:
    return {"embedding": [], "score": 0.0, "box": [], "landmarks": [], "faces": 0, "rejected": ""}


def _detection(face: AlignedFace) -> dict[str, Any]:
    return {
        "score": float(face.score),
        "box": face.box.tolist(),
        "landmarks": face.landmarks.ravel().tolist(),
        "faces": face.faces,
    }
