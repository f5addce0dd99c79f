"""Trees of image files, a folder for each identity, as other tools write and read them.

An identity's folder appears whole or not at all, so that a tree that is still being written holds no folder that looks
finished and is not. Object stores have no folders and no renames: there every file appears whole, and a folder may
be incomplete until the job that writes it has ended.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow.fs as pafs

from facelib.data.image_headers import image_suffix
from facelib.data.storage import OBJECT_STORES, Folder, storage_error

TREE = "images"
STAGING = ".staging"


@dataclass(frozen=True)
class TreeIdentity:
    """One identity's encoded images.

    Attributes:
        number: of the identity.
        record_folder: the identity's folder in the layout `insightface`: number of the set, and of the identity.
        images: (number of the image, its bytes).
    """

    number: int
    record_folder: str
    images: Sequence[tuple[int, bytes]]

    def files(self, layout: str) -> tuple[str, dict[str, bytes]]:
        """The identity's folder, and its files by name, in `layout`: `usynthface` or `insightface`.

        Raises:
            ValueError: bytes that are not JPEG, PNG, BMP or WebP.
        """
        if layout == "insightface":
            return self.record_folder, {f"{i}{image_suffix(data)}": data for i, (_, data) in enumerate(self.images)}
        named = [(usynthface_path(self.number, index, image_suffix(data)), data) for index, data in self.images]
        return f"{self.number:07d}", {path.partition("/")[2]: data for path, data in named}


def usynthface_path(identity: int, index: int, suffix: str = ".jpg") -> str:
    """An image's relative path as USynthFace's script writes it: "0000012/0000012_003.jpg"."""
    return f"{identity:07d}/{identity:07d}_{index:03d}{suffix}"


class ImageTree:
    """The tree `<uri>/images`, on any file system.

    Args:
        uri: the folder that holds it, and while it is being written what is not finished.
    """

    def __init__(self, uri: str) -> None:
        self.folder = Folder(uri)
        self.tree, self.staging = Folder(f"{self.folder.uri}/{TREE}"), Folder(f"{self.folder.uri}/{STAGING}")

    def write(self, name: str, files: dict[str, bytes]) -> None:
        """Write the folder `name` with its files, unless it is there.

        Raises:
            DatasetError: the storage is full or not writable.
        """
        fs = self.folder.fs
        if fs.type_name in OBJECT_STORES:
            for file, data in files.items():
                self.tree.write(f"{name}/{file}", data)
            return
        target = f"{self.tree.path}/{name}"
        if fs.get_file_info(target).type == pafs.FileType.Directory:
            return
        self.tree.create()
        unfinished = Folder(f"{self.staging.uri}/{name}.{uuid.uuid4().hex}").create()
        try:
            for file, data in files.items():
                with fs.open_output_stream(f"{unfinished.path}/{file}") as stream:
                    stream.write(data)
            fs.move(unfinished.path, target)
        except OSError as error:
            # A task that was taken for lost may have been as fast: what it wrote is the same.
            if fs.get_file_info(target).type != pafs.FileType.Directory:
                raise storage_error(f"{self.tree.uri}/{name}", "written", error) from None

    def clean(self) -> None:
        """Delete what killed writers left. Call only while no process writes here."""
        if self.folder.fs.get_file_info(self.staging.path).type == pafs.FileType.Directory:
            self.folder.fs.delete_dir(self.staging.path)
