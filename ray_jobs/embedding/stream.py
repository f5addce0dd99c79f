"""Ray Data stream of embeddings: tasks of pictures → reading (and alignment) actors → network actors.

A row is one task, a run of consecutive pictures of one part, so what it gives depends on the input and the settings
alone. Crops travel as raw bytes in rows of bounded size.

Shape legend: N pictures of a task, S side of a crop, D embedding size.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from facelib.alignment import Aligner, Rejection, build_detector
from facelib.config import AlignSettings, EmbedSettings, Settings
from facelib.data import DatasetError, FaceDataset, Folder, ImageSpec, decode_image
from facelib.utils.arrays import l2_normalize
from ray_jobs.actors import device_options
from ray_jobs.resources import ActorRequest, check_resources


@dataclass(frozen=True)
class Task:
    """Pictures that one actor reads at a time: files of a folder, or row groups of a dataset's part.

    Args:
        part: number of the part file it belongs to.
        number: of the task within the part.
        pictures: how many.
        uri: folder or dataset.
        files: names below a folder.
        source: part file of a dataset.
        row_groups: of that part.
    """

    part: int
    number: int
    pictures: int
    uri: str
    files: list[str] = field(default_factory=list)
    source: str = ""
    row_groups: list[int] = field(default_factory=list)


def embedding_stream(
    settings: Settings, model: str, image_spec: ImageSpec, tasks: Sequence[Task]
) -> Iterator[tuple[Task, pa.Table]]:
    """Embed `tasks`; they come back in the order they are finished, each as a table without metadata.

    Args:
        model: path or URI of the checkpoint.
        image_spec: what the faces it was made for look like.
    """
    cfg, align = settings.embed, settings.align
    aligners = ActorRequest("align", align, min(align.actors, len(tasks)))
    check_resources(settings.ray.autoscaling, aligners, ActorRequest("embed", cfg, 1))
    rows = [{"task": json.dumps(asdict(task))} for task in tasks]
    stream = (
        ray.data.from_items(rows, override_num_blocks=min(len(rows), 2000))
        .map(
            CropActor,
            fn_constructor_args=(align, image_spec, cfg.aligned),
            compute=ray.data.ActorPoolStrategy(size=min(align.actors, len(tasks))),
            num_cpus=align.cpus_per_actor,
            num_gpus=align.gpus_per_actor,
        )
        .map(
            CropEmbeddingActor,
            fn_constructor_args=(model, cfg, image_spec.size),
            compute=ray.data.ActorPoolStrategy(size=min(cfg.actors, len(tasks))),
            num_cpus=cfg.cpus_per_actor,
            num_gpus=cfg.gpus_per_actor,
        )
    )
    for row in stream.iter_rows():
        yield Task(**json.loads(row["task"])), pa.ipc.open_stream(row["table"]).read_all()


class CropActor:
    """Actor: reads pictures, and finds and cuts out their faces unless they are crops."""

    def __init__(self, align: AlignSettings, image_spec: ImageSpec, aligned: bool) -> None:
        import cv2

        cv2.setNumThreads(1)
        self.align, self.template, self.size, self.aligned = align, image_spec.template, image_spec.size, aligned
        self.aligner: Aligner | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        task = Task(**json.loads(row["task"]))
        if task.source:
            columns, encoded = self._of_dataset(task)
            aligned = True
        else:
            columns, encoded = self._of_folder(task)
            aligned = self.aligned
        crops, scores, rejected = self._crops(encoded, aligned)
        columns["score"] = columns.get("score", scores)
        columns["rejected"] = rejected
        return {"task": row["task"], "columns": json.dumps(columns), "crops": b"".join(c.tobytes() for c in crops)}

    def _of_dataset(self, task: Task) -> tuple[dict[str, list[Any]], list[bytes]]:
        names = ["image", "identity", "index", "score"]
        table = FaceDataset(task.uri).read_row_groups(task.source, task.row_groups, names)
        columns = {name: table[name].to_pylist() for name in names[1:]}
        columns["name"] = [f"{i}/{j}" for i, j in zip(columns["identity"], columns["index"], strict=True)]
        return columns, table["image"].to_pylist()

    def _of_folder(self, task: Task) -> tuple[dict[str, list[Any]], list[bytes]]:
        folder = Folder(task.uri)
        encoded = []
        for name in task.files:
            try:
                encoded.append(folder.read(name))
            except DatasetError:
                encoded.append(b"")  # Gone or unreadable: rejected below, like any damaged picture.
        unknown = [None] * len(encoded)
        return {"name": task.files, "identity": unknown, "index": unknown}, encoded

    def _crops(self, encoded: Sequence[bytes], aligned: bool) -> tuple[list[np.ndarray], list[float | None], list[str]]:
        """Crops of the pictures that have one; of every picture its score, and why it was rejected ("": it was not)."""
        scores: list[float | None] = [None] * len(encoded)
        rejected = [""] * len(encoded)
        pictures: dict[int, np.ndarray] = {}
        for number, data in enumerate(encoded):
            try:
                pictures[number] = decode_image(data)
            except ValueError as error:
                rejected[number] = str(error)
        if not aligned and pictures:
            found = self._aligner().align(list(pictures.values()))
            for number, result in zip(list(pictures), found, strict=True):
                if isinstance(result, Rejection):
                    rejected[number] = f"{result.reason}: {result.detail}"
                    del pictures[number]
                else:
                    scores[number], pictures[number] = float(result.score), result.image
        for number in [n for n, picture in pictures.items() if picture.shape[:2] != (self.size, self.size)]:
            height, width = pictures.pop(number).shape[:2]
            rejected[number] = f"size: {width}x{height} pixels instead of {self.size}x{self.size}"
        return list(pictures.values()), scores, rejected

    def _aligner(self) -> Aligner:
        if self.aligner is None:
            options = device_options(self.align.options, self.align.gpus_per_actor)
            detector = build_detector(self.align.detector, **options)
            self.aligner = Aligner(detector, self.template, self.size, self.align.min_score)
        return self.aligner


class CropEmbeddingActor:
    """Actor: one network."""

    def __init__(self, model: str, cfg: EmbedSettings, size: int) -> None:
        import torch

        from facelib.embedding import load_face_model
        from facelib.utils.devices import actor_device

        device = actor_device(cfg.gpus_per_actor, cfg.cpus_per_actor)
        self.backbone = load_face_model(model).to(device).to(memory_format=torch.channels_last)
        self.cfg, self.size = cfg, size

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        from facelib.embedding import embed_images

        crops = np.frombuffer(bytearray(row["crops"]), np.uint8).reshape(-1, self.size, self.size, 3)
        embeddings = embed_images(self.backbone, crops, self.cfg.flip, precision=self.cfg.precision)
        if self.cfg.normalize:
            embeddings = l2_normalize(embeddings)
        table = embedding_table(json.loads(row["columns"]), embeddings)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return {"task": row["task"], "table": sink.getvalue().to_pybytes()}


def embedding_table(columns: dict[str, list[Any]], embeddings: np.ndarray) -> pa.Table:
    """Rows of all pictures; `embedding` is null where a picture was rejected."""
    kept = np.array([not reason for reason in columns["rejected"]], bool)
    dimensions = embeddings.shape[1]
    ends = np.cumsum(kept * dimensions, dtype=np.int32)
    # Lists of free length: Parquet does not give null lists of a fixed length back.
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
