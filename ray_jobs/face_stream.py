"""Ray Data stream of aligned faces: identity chunks → generator actors → aligner actors.

A row is one chunk of identities, so a row's content depends on the settings and its identity range alone, whoever
makes it and when. Pixels travel as raw bytes in a row of bounded size; what leaves the aligner is an Arrow table of
encoded faces.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from facelib.config import AlignSettings, GenerateSettings, Settings
from facelib.faces import SCHEMA, Face, encode_image, faces_to_table


@dataclass(frozen=True)
class Chunk:
    """Identities `first` … `first + count − 1`, a piece of part number `part`."""

    part: int
    first: int
    count: int


@dataclass(frozen=True)
class AlignedChunk:
    """The faces of one chunk, and how many pictures were rejected for which reason."""

    chunk: Chunk
    table: pa.Table
    rejected: dict[str, int]


def face_stream(settings: Settings, chunks: Sequence[Chunk]) -> Iterator[AlignedChunk]:
    """Generate and align `chunks`; they come back in the order they are finished."""
    generate, align = settings.generate, settings.align
    rows = [{"part": c.part, "first": c.first, "count": c.count} for c in chunks]
    stream = (
        ray.data.from_items(rows, override_num_blocks=min(len(rows), 2000))
        .map(
            GenerateChunk,
            fn_constructor_args=(settings.seed, generate),
            compute=ray.data.ActorPoolStrategy(size=min(generate.actors, len(rows))),
            num_cpus=generate.cpus_per_actor,
            num_gpus=generate.gpus_per_actor,
        )
        .map(
            AlignChunk,
            fn_constructor_args=(align, generate.generator, generate.jpeg_quality),
            compute=ray.data.ActorPoolStrategy(size=min(align.actors, len(rows))),
            num_cpus=align.cpus_per_actor,
            num_gpus=align.gpus_per_actor,
        )
    )
    for row in stream.iter_rows():
        table = pa.ipc.open_stream(row["table"]).read_all()
        yield AlignedChunk(Chunk(row["part"], row["first"], row["count"]), table, json.loads(row["rejected"]))


class GenerateChunk:
    """Actor: renders all images of a chunk's identities."""

    def __init__(self, seed: int, generate: GenerateSettings) -> None:
        from facelib.synthesis import build_generator

        one_thread()
        options = dict(generate.options)
        if generate.gpus_per_actor > 0:
            options.setdefault("device", "cuda")
        self.seed, self.images_per_identity = seed, generate.images_per_identity
        self.generator = build_generator(generate.generator, **options)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        identities = np.repeat(np.arange(row["first"], row["first"] + row["count"]), self.images_per_identity)
        indices = np.tile(np.arange(self.images_per_identity), row["count"])
        codes = self.generator.identity_codes(self.seed, identities)
        factors = self.generator.image_factors(self.seed, identities, indices)
        images = self.generator.render(codes, factors)
        return {
            **row,
            "images": images.tobytes(),
            "image_size": images.shape[1],
            "factors": factors.astype(np.float32).tobytes(),
            "factor_size": factors.shape[1],
        }


class AlignChunk:
    """Actor: finds the face in each picture, cuts it out and encodes it."""

    def __init__(self, align: AlignSettings, source: str, jpeg_quality: int) -> None:
        from facelib.alignment import Aligner, build_detector

        one_thread()
        options = dict(align.options)
        if align.gpus_per_actor > 0:
            options.setdefault("device", "cuda")
        detector = build_detector(align.detector, **options)
        self.aligner = Aligner(detector, template=align.template, size=align.size, min_score=align.min_score)
        self.source, self.jpeg_quality = source, jpeg_quality

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        from facelib.alignment import Rejection

        side, count = row["image_size"], row["count"]
        images = np.frombuffer(row["images"], np.uint8).reshape(-1, side, side, 3)
        factors = np.frombuffer(row["factors"], np.float32).reshape(len(images), row["factor_size"])
        per_identity = len(images) // count
        faces: list[Face] = []
        rejected: dict[str, int] = {}
        for i, result in enumerate(self.aligner.align(list(images))):
            if isinstance(result, Rejection):
                rejected[str(result.reason)] = rejected.get(str(result.reason), 0) + 1
                continue
            identity, index = row["first"] + i // per_identity, i % per_identity
            data = encode_image(result.image, self.jpeg_quality)
            faces.append(Face(data, identity, index, result.score, result.landmarks, factors[i], self.source))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, SCHEMA) as writer:
            writer.write_table(faces_to_table(faces))
        return {
            "part": row["part"],
            "first": row["first"],
            "count": count,
            "table": sink.getvalue().to_pybytes(),
            "rejected": json.dumps(rejected),
        }


def one_thread() -> None:
    """Actors are the parallelism; library thread pools inside them only fight over the same cores."""
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
