"""Stream of embeddings: tasks → reading (and alignment) actors → network actors.

A row is one task, a run of consecutive images of one part, so its embeddings depend only on the input and the settings.
Crops travel as raw bytes in rows of bounded size.

Shape legend: N images of a task, S side of a crop in pixels, D embedding size.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from facelib.alignment import Aligner, Rejection, build_detector
from facelib.config import AlignSettings, EmbedSettings, Settings
from facelib.data import DatasetError, FaceDataset, Folder, ImageSpec, decode_image
from facelib.utils.arrays import l2_normalize
from ray_jobs.actors import ActorStage, device_options, stream_rows
from ray_jobs.embedding.tasks import EmbeddingTask


def embedding_stream(
    settings: Settings, model: str, image_spec: ImageSpec, tasks: Sequence[EmbeddingTask]
) -> Iterator[tuple[EmbeddingTask, pa.Table]]:
    """Embed `tasks`; they come in the order they are finished, each with its `embedding_table`.

    Args:
        model: path or URI of the checkpoint.
        image_spec: of the model's training faces.
    """
    cfg, align = settings.embed, settings.align
    stages = (
        ActorStage(CropActor, (align, image_spec, cfg.aligned), "align", align),
        ActorStage(CropEmbeddingActor, (model, cfg, image_spec.size, settings.model.normalization), "embed", cfg),
    )
    for row in stream_rows([{"task": json.dumps(asdict(task))} for task in tasks], stages, settings):
        yield EmbeddingTask(**json.loads(row["task"])), pa.ipc.open_stream(row["table"]).read_all()


class CropActor:
    """Actor of the first stage: reads images, and detects and aligns their faces unless they are crops."""

    def __init__(self, align: AlignSettings, image_spec: ImageSpec, aligned: bool) -> None:
        import cv2

        cv2.setNumThreads(1)
        self.align, self.template, self.size, self.aligned = align, image_spec.template, image_spec.size, aligned
        self.aligner: Aligner | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        task = EmbeddingTask(**json.loads(row["task"]))
        if task.source:
            columns, encoded = self._read_dataset(task)
            aligned = True
        else:
            columns, encoded = self._read_folder(task)
            aligned = self.aligned
        crops, scores, rejected = self._crop(encoded, aligned)
        columns["score"] = columns.get("score", scores)
        columns["rejected"] = rejected
        return {"task": row["task"], "columns": json.dumps(columns), "crops": b"".join(c.tobytes() for c in crops)}

    def _read_dataset(self, task: EmbeddingTask) -> tuple[dict[str, list[Any]], list[bytes]]:
        names = ["image", "identity", "index", "score"]
        table = FaceDataset(task.uri).read_row_groups(task.source, task.row_groups, names)
        columns = {name: table[name].to_pylist() for name in names[1:]}
        columns["name"] = [f"{i}/{j}" for i, j in zip(columns["identity"], columns["index"], strict=True)]
        return columns, table["image"].to_pylist()

    def _read_folder(self, task: EmbeddingTask) -> tuple[dict[str, list[Any]], list[bytes]]:
        folder = Folder(task.uri)
        encoded = []
        for name in task.files:
            try:
                encoded.append(folder.read(name))
            except DatasetError:
                encoded.append(b"")  # Deleted or unreadable: rejected below, as any damaged image.
        unknown = [None] * len(encoded)
        return {"name": task.files, "identity": unknown, "index": unknown}, encoded

    def _crop(self, encoded: Sequence[bytes], aligned: bool) -> tuple[list[np.ndarray], list[float | None], list[str]]:
        """Crops [S, S, 3] of the images that have a face; score and reason of rejection ("": none) of every image."""
        scores: list[float | None] = [None] * len(encoded)
        rejected = [""] * len(encoded)
        images: dict[int, np.ndarray] = {}
        for number, data in enumerate(encoded):
            try:
                images[number] = decode_image(data)
            except ValueError as error:
                rejected[number] = str(error)
        if not aligned and images:
            results = self._build_aligner().align(list(images.values()))
            for number, result in zip(list(images), results, strict=True):
                if isinstance(result, Rejection):
                    rejected[number] = f"{result.reason}: {result.detail}"
                    del images[number]
                else:
                    scores[number], images[number] = float(result.score), result.image
        for number in [n for n, image in images.items() if image.shape[:2] != (self.size, self.size)]:
            height, width = images.pop(number).shape[:2]
            rejected[number] = f"size: {width}x{height} pixels instead of {self.size}x{self.size}"
        return list(images.values()), scores, rejected

    def _build_aligner(self) -> Aligner:
        if self.aligner is None:
            options = device_options(self.align.options, self.align.gpus_per_actor)
            detector = build_detector(self.align.detector, **options)
            self.aligner = Aligner(
                detector, self.template, self.size, self.align.min_score, selection=self.align.selection
            )
        return self.aligner


class CropEmbeddingActor:
    """Actor of the second stage: embeds crops with one network."""

    def __init__(self, model: str, cfg: EmbedSettings, size: int, normalization: str = "auto") -> None:
        import torch

        from facelib.embedding import load_face_model
        from facelib.utils.devices import actor_device

        device = actor_device(cfg.gpus_per_actor, cfg.cpus_per_actor)
        self.backbone = load_face_model(model, normalization).to(device).to(memory_format=torch.channels_last)
        self.cfg, self.size = cfg, size

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        from facelib.embedding import NonFiniteEmbeddingError, embed_images

        crops = np.frombuffer(bytearray(row["crops"]), np.uint8).reshape(-1, self.size, self.size, 3)
        columns = json.loads(row["columns"])
        try:
            embeddings = embed_images(self.backbone, crops, self.cfg.flip, precision=self.cfg.precision)
        except NonFiniteEmbeddingError as error:
            names = [name for name, reason in zip(columns["name"], columns["rejected"], strict=True) if not reason]
            raise ValueError(f"{names[error.image]}: {error.reason}") from None
        if self.cfg.normalize:
            embeddings = l2_normalize(embeddings)
        table = embedding_table(columns, embeddings)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return {"task": row["task"], "table": sink.getvalue().to_pybytes()}


def embedding_table(columns: dict[str, list[Any]], embeddings: np.ndarray) -> pa.Table:
    """One row per image, of N; `embedding` (float32 [D]) is null where the image was rejected."""
    kept = np.array([not reason for reason in columns["rejected"]], bool)
    dimensions = embeddings.shape[1]
    ends = np.cumsum(kept * dimensions, dtype=np.int32)
    # Lists of variable length: Parquet does not preserve null lists of a fixed length.
    vectors = pa.ListArray.from_arrays(
        pa.array(np.append(np.int32(0), ends)), pa.array(embeddings.ravel(), pa.float32()), mask=pa.array(~kept)
    )
    table = pa.table(
        {
            "name": pa.array(columns["name"], pa.string()),
            "identity": pa.array(columns["identity"], pa.int64()),
            "index": pa.array(columns["index"], pa.int32()),
            "score": pa.array(columns["score"], pa.float32()),
            "rejected": pa.array(columns["rejected"], pa.string()),
            "embedding": vectors,
        }
    )
    return table.replace_schema_metadata({"dimensions": str(dimensions)})
