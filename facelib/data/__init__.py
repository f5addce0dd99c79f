"""The face dataset: storage, images, schema, manifest, reading and writing of parts.

A face dataset is a folder, local or remote (anything `pyarrow.fs` opens: `s3://`, `gs://`), of `part-*.parquet` files
and one `manifest.json` that is written last: a folder without it is unfinished and nothing reads it as a dataset. All
images of one identity are in one row group, identities ascend, and a part's bytes are a function of (settings, identity
range) only.
"""

from facelib.data.dataset import FaceDataset
from facelib.data.errors import DatasetError, StorageError
from facelib.data.image_spec import ImageSpec
from facelib.data.images import IMAGE_SUFFIXES, MAX_PIXELS, decode_image, decode_images, encode_image
from facelib.data.manifest import (
    MANIFEST_NAME,
    SPEC_NAME,
    Manifest,
    PartInfo,
    make_manifest,
    read_part_info,
    write_part,
)
from facelib.data.part_cache import PartCache
from facelib.data.schema import SCHEMA, Face, faces_to_table
from facelib.data.storage import Folder, atomic_file, file_sha256, local_copy

__all__ = [
    "IMAGE_SUFFIXES",
    "MANIFEST_NAME",
    "MAX_PIXELS",
    "SCHEMA",
    "SPEC_NAME",
    "DatasetError",
    "Face",
    "FaceDataset",
    "Folder",
    "ImageSpec",
    "Manifest",
    "PartCache",
    "PartInfo",
    "StorageError",
    "atomic_file",
    "decode_image",
    "decode_images",
    "encode_image",
    "faces_to_table",
    "file_sha256",
    "local_copy",
    "make_manifest",
    "read_part_info",
    "write_part",
]
