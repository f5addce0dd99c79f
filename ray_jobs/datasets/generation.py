"""Stream of aligned faces: identity chunks → generator actors → aligner actors.

A row is one chunk of identities, so its content depends only on the settings and the identity range, not on which actor
processes it or when. Pixels travel as raw bytes in rows of bounded size; aligners return Arrow tables of encoded faces;
a task on any node writes a part from the tables of its chunks. The driver sees what was written, no faces.
Generators and aligners are separate stages, each with its own number of actors and its own share of CPUs and GPUs.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from facelib.config import AlignSettings, GenerateSettings, Settings
from facelib.data import SCHEMA, Face, PartInfo, encode_image, faces_to_table
from ray_jobs.actors import ActorStage, GroupStage, device_options, prepare_actor_process, stream_rows
from ray_jobs.resources import ActorRequest, check_resources, cluster_nodes

if TYPE_CHECKING:
    from facelib.synthesis import FaceGenerator


UNALIGNED = "none"  # in place of a detector and of a template: images are kept as they are generated


@dataclass(frozen=True)
class Chunk:
    """A range of identities that one task renders.

    Attributes:
        part: number of the dataset part that the faces belong to.
        first: first identity.
        count: number of identities.
        first_image: index of each identity's first image.
    """

    part: int
    first: int
    count: int
    first_image: int = 0


@dataclass(frozen=True)
class AlignedChunk:
    """The faces of one chunk, and the number of rejected images by reason."""

    chunk: Chunk
    table: pa.Table
    rejected: dict[str, int]

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "AlignedChunk":
        """From the row that `AlignerActor` returns."""
        chunk = Chunk(row["part"], row["first"], row["count"], row["first_image"])
        return cls(chunk, pa.ipc.open_stream(row["table"]).read_all(), json.loads(row["rejected"]))


def face_stages(settings: Settings) -> tuple[ActorStage, ActorStage]:
    """Generators and aligners, as the settings have them."""
    generate, align = settings.generate, settings.align
    return (
        ActorStage(GeneratorActor, (settings.seed, generate), "generate", generate),
        ActorStage(AlignerActor, (align, generate.jpeg_quality), "align", align),
    )


def face_parts(
    settings: Settings, parts: Sequence[Sequence[Chunk]], write: Callable[[list[AlignedChunk]], PartInfo]
) -> Iterator[PartInfo]:
    """Generate, align and write parts; what was written comes in the order of `parts`.

    Args:
        parts: the chunks of each part.
        write: writes a part from all of its chunks, in a task on any node. Called again after a failure.
    """
    check_actors(settings)
    size = max((len(chunks) for chunks in parts), default=1)
    rows = []
    for chunks in parts:
        # Shorter parts are filled up with chunks of no identity: groups have one size.
        empty = Chunk(chunks[-1].part, chunks[-1].first + chunks[-1].count, 0)
        rows += [asdict(chunk) for chunk in (*chunks, *[empty] * (size - len(chunks)))]

    def write_part(group: list[dict[str, Any]]) -> dict[str, str]:
        made = [AlignedChunk.from_row(row) for row in group if row["count"]]
        if len({aligned.chunk.part for aligned in made}) != 1:
            raise RuntimeError(f"rows of several parts in one group: {[aligned.chunk for aligned in made]}")
        return {"info": write(made).model_dump_json()}

    for row in stream_rows(rows, face_stages(settings), settings, GroupStage(write_part, size)):
        yield PartInfo.model_validate_json(row["info"])


def check_actors(settings: Settings) -> None:
    """Make an image in one actor of each kind before whole pools start: nodes may lack weights or a working GPU.

    Only where the actors are not on this machine alone: here, the pools fail as fast.

    Raises:
        JobError: an actor cannot start or fails; its own message.
    """
    import ray

    if len(cluster_nodes()) == 1 and not settings.ray.autoscaling:
        return
    generate, align = settings.generate, settings.align
    check_resources(settings.ray.autoscaling, ActorRequest("generate", generate, 1), ActorRequest("align", align, 1))
    row: Any = asdict(Chunk(0, generate.first_identity, 1))
    one = settings.model_copy(update={"generate": generate.model_copy(update={"images_per_identity": 1})})
    for stage in face_stages(one):
        cfg = stage.cfg
        actor_class: Any = ray.remote(num_cpus=cfg.cpus_per_actor, num_gpus=cfg.gpus_per_actor)(stage.actor_class)
        actor = actor_class.remote(*stage.args)
        row = actor.__call__.remote(row)
        ray.wait([row])
    ray.get(row)


def faces_spec(settings: Settings) -> dict[str, Any]:
    """All settings that decide the bytes of generated faces, without the identity range."""
    from facelib.synthesis import generator_version

    generate, align = settings.generate, settings.align
    generator = make_generator(generate)
    mixture = {}
    if isinstance(generate.generator, list):
        mixture["generator_mixture"] = [part.model_dump() for part in generate.generator]
    return {
        "generator": generator.name,
        "generator_version": generator_version(generator),
        "generator_options": generate.options,
        "generator_licence": generator.license,
        "generator_weights": generator.weights_hash,
        **mixture,
        "seed": settings.seed,
        "images_per_identity": generate.images_per_identity,
        "jpeg_quality": generate.jpeg_quality,
        "detector": align.detector,
        "detector_options": align.options,
        "min_score": align.min_score,
        **_crop_spec(align, generator),
    }


def _crop_spec(align: AlignSettings, generator: "FaceGenerator") -> dict[str, Any]:
    """Template and size of the stored images, and which face is taken."""
    if align.detector == UNALIGNED:
        return {"template": UNALIGNED, "size": generator.image_size}
    return {"template": align.template, "size": align.size, **align.selection_spec}


def make_generator(generate: GenerateSettings, gpus: float = 0) -> "FaceGenerator":
    """The generator or mixture that the settings name, on the GPU of an actor that reserves `gpus`.

    Raises:
        ValueError: an unknown generator or setting, or parts of a mixture that do not fit together.
    """
    from facelib.synthesis import build_generator
    from facelib.synthesis.mixture import MixtureGenerator, MixturePart

    if isinstance(generate.generator, str):
        return build_generator(generate.generator, **device_options(generate.options, gpus))
    if generate.options:
        raise ValueError("a mixture's generators have options of their own: [{name: …, share: …, options: {…}}, …]")
    # On a GPU where the actor has one and the generator can use it: "auto" is their default.
    return MixtureGenerator(
        [MixturePart(build_generator(part.name, **part.options), part.share) for part in generate.generator]
    )


class GeneratorActor:
    """Actor of the first stage: renders all images of a chunk's identities."""

    def __init__(self, seed: int, generate: GenerateSettings) -> None:
        prepare_actor_process()
        self.seed, self.images_per_identity = seed, generate.images_per_identity
        self.generator = make_generator(generate, generate.gpus_per_actor)
        self.name = generate.generator_name

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if not row["count"]:
            return {**row, "images": b"", "image_size": 1, "factors": b"", "factor_size": 1, "sources": "[]"}
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
            "sources": json.dumps([self._source(i) for i in range(row["first"], row["first"] + row["count"])]),
        }

    def _source(self, identity: int) -> str:
        """What is kept with an identity's faces: the generator's name; in a mixture, that of the identity's own."""
        from facelib.synthesis.mixture import MixtureGenerator

        return self.generator.source(identity) if isinstance(self.generator, MixtureGenerator) else self.name


class AlignerActor:
    """Actor of the second stage: detects, aligns and encodes the face of each image, or encodes all of the image."""

    def __init__(self, align: AlignSettings, jpeg_quality: int) -> None:
        from facelib.alignment import Aligner, Unaligned, build_detector

        prepare_actor_process()
        self.jpeg_quality = jpeg_quality
        self.aligner: Aligner | Unaligned = Unaligned()
        if align.detector == UNALIGNED:
            return
        detector = build_detector(align.detector, **device_options(align.options, align.gpus_per_actor))
        self.aligner = Aligner(
            detector, template=align.template, size=align.size, min_score=align.min_score, selection=align.selection
        )

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        from facelib.alignment import Rejection, count_rejections

        side, count = row["image_size"], row["count"]
        images = np.frombuffer(row["images"], np.uint8).reshape(-1, side, side, 3)
        factors = np.frombuffer(row["factors"], np.float32).reshape(len(images), row["factor_size"])
        per_identity, sources = len(images) // max(count, 1), json.loads(row["sources"])
        faces: list[Face] = []
        results = self.aligner.align(list(images))
        for i, result in enumerate(results):
            if isinstance(result, Rejection):
                continue
            identity, index = row["first"] + i // per_identity, row["first_image"] + i % per_identity
            data = encode_image(result.image, self.jpeg_quality)
            source = sources[i // per_identity]
            faces.append(Face(data, identity, index, result.score, result.landmarks, factors[i], source))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, SCHEMA) as writer:
            writer.write_table(faces_to_table(faces))
        # Reasons that did not occur are omitted, here and in the manifest.
        rejected = {reason: number for reason, number in count_rejections(results).items() if number}
        chunk = {name: row[name] for name in ("part", "first", "count", "first_image")}
        return {**chunk, "table": sink.getvalue().to_pybytes(), "rejected": json.dumps(rejected)}
