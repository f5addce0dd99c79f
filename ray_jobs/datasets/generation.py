"""Ray Data stream of aligned faces: identity chunks → generator actors → aligner actors.

A row is one chunk of identities, so a row's content depends on the settings and its identity range alone, whoever
makes it and when. Pixels travel as raw bytes in a row of bounded size; what leaves the aligner is an Arrow table of
encoded faces. Generators and aligners are pools of their own: a network library that one of them needs (TensorFlow for
DiscoFaceGAN and MTCNN) is loaded in its processes only.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from facelib.config import AlignSettings, GenerateSettings, Settings
from facelib.data import SCHEMA, Face, encode_image, faces_to_table
from ray_jobs.actors import device_options, limit_actor_threads
from ray_jobs.resources import ActorRequest, check_resources


@dataclass(frozen=True)
class Chunk:
    """Images `first_image` … of identities `first` … `first + count − 1`, a piece of part number `part`."""

    part: int
    first: int
    count: int
    first_image: int = 0


@dataclass(frozen=True)
class AlignedChunk:
    """The faces of one chunk, and how many pictures were rejected for which reason."""

    chunk: Chunk
    table: pa.Table
    rejected: dict[str, int]

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "AlignedChunk":
        """What `AlignerActor` returned."""
        chunk = Chunk(row["part"], row["first"], row["count"], row["first_image"])
        return cls(chunk, pa.ipc.open_stream(row["table"]).read_all(), json.loads(row["rejected"]))


def face_stream(settings: Settings, chunks: Sequence[Chunk]) -> Iterator[AlignedChunk]:
    """Generate and align `chunks`; they come back in the order they are finished."""
    generate, align = settings.generate, settings.align
    rows = [asdict(chunk) for chunk in chunks]
    # The generators start first: all of them, and then there must be room for an aligner.
    generators = ActorRequest("generate", generate, min(generate.actors, len(rows)))
    check_resources(settings.ray.autoscaling, generators, ActorRequest("align", align, 1))
    stream = (
        ray.data.from_items(rows, override_num_blocks=min(len(rows), 2000))
        .map(
            GeneratorActor,
            fn_constructor_args=(settings.seed, generate),
            compute=ray.data.ActorPoolStrategy(size=min(generate.actors, len(rows))),
            num_cpus=generate.cpus_per_actor,
            num_gpus=generate.gpus_per_actor,
        )
        .map(
            AlignerActor,
            fn_constructor_args=(align, generate.generator, generate.jpeg_quality),
            compute=ray.data.ActorPoolStrategy(size=min(align.actors, len(rows))),
            num_cpus=align.cpus_per_actor,
            num_gpus=align.gpus_per_actor,
        )
    )
    for row in stream.iter_rows():
        yield AlignedChunk.from_row(row)


def faces_spec(settings: Settings) -> dict[str, Any]:
    """Everything but the range of identities that decides the bytes of made faces: no actors, no CPUs."""
    from facelib.synthesis import build_generator, generator_version

    generate, align = settings.generate, settings.align
    generator = build_generator(generate.generator, **generate.options)
    return {
        "generator": generator.name,
        "generator_version": generator_version(generator),
        "generator_options": generate.options,
        "generator_licence": generator.license,
        "generator_weights": generator.weights_hash,
        "seed": settings.seed,
        "images_per_identity": generate.images_per_identity,
        "jpeg_quality": generate.jpeg_quality,
        "detector": align.detector,
        "detector_options": align.options,
        "min_score": align.min_score,
        "template": align.template,
        "size": align.size,
    }


class GeneratorActor:
    """Actor: renders all images of a chunk's identities."""

    def __init__(self, seed: int, generate: GenerateSettings) -> None:
        from facelib.synthesis import build_generator

        limit_actor_threads(generate.gpus_per_actor)
        self.seed, self.images_per_identity = seed, generate.images_per_identity
        self.generator = build_generator(
            generate.generator, **device_options(generate.options, generate.gpus_per_actor)
        )

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        identities = np.repeat(np.arange(row["first"], row["first"] + row["count"]), self.images_per_identity)
        indices = np.tile(row["first_image"] + np.arange(self.images_per_identity), row["count"])
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


class AlignerActor:
    """Actor: finds the face in each picture, cuts it out and encodes it."""

    def __init__(self, align: AlignSettings, source: str, jpeg_quality: int) -> None:
        from facelib.alignment import Aligner, build_detector

        limit_actor_threads(align.gpus_per_actor)
        detector = build_detector(align.detector, **device_options(align.options, align.gpus_per_actor))
        self.aligner = Aligner(detector, template=align.template, size=align.size, min_score=align.min_score)
        self.source, self.jpeg_quality = source, jpeg_quality

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        from facelib.alignment import Rejection, count_rejections

        side, count = row["image_size"], row["count"]
        images = np.frombuffer(row["images"], np.uint8).reshape(-1, side, side, 3)
        factors = np.frombuffer(row["factors"], np.float32).reshape(len(images), row["factor_size"])
        per_identity = len(images) // count
        faces: list[Face] = []
        results = self.aligner.align(list(images))
        for i, result in enumerate(results):
            if isinstance(result, Rejection):
                continue
            identity, index = row["first"] + i // per_identity, row["first_image"] + i % per_identity
            data = encode_image(result.image, self.jpeg_quality)
            faces.append(Face(data, identity, index, result.score, result.landmarks, factors[i], self.source))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, SCHEMA) as writer:
            writer.write_table(faces_to_table(faces))
        # Reasons that did not occur are left out, here and in the manifest.
        rejected = {reason: number for reason, number in count_rejections(results).items() if number}
        chunk = {name: row[name] for name in ("part", "first", "count", "first_image")}
        return {**chunk, "table": sink.getvalue().to_pybytes(), "rejected": json.dumps(rejected)}
