"""DiscoFaceGAN's files: what the user places, and the one file that later runs read.

The converted file `discofacegan.npz` is an uncompressed numpy archive without objects: `Gs/<variable>`,
`vae/<factor>/<layer>/<kernel|bias>`, `average_w_id` [L, W] and `header`, a JSON text as bytes with the network's
settings, the SHA-256 of the contents and those of the files it was made from.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from facelib.data.storage import Folder, node_copy
from facelib.synthesis.discofacegan.network_pickle import NetworkTables
from facelib.synthesis.discofacegan.topology import Topology
from facelib.synthesis.discofacegan.vae import FACTORS, LAYERS, check_decoder

Floats = npt.NDArray[np.float32]
CONVERTED = "discofacegan.npz"
NETWORK = "network-snapshot-020126.pkl"
AVERAGE = "network-snapshot-020126-average_w_id.txt"
CHECKPOINT = "vae/weights/{factor}/stage1_epoch_395.ckpt"
LICENSE = (
    "non-commercial: DiscoFaceGAN code and VAEs MIT (Microsoft), StyleGAN parts CC BY-NC 4.0 (NVIDIA), "
    "trained on FFHQ (CC BY-NC-SA 4.0)"
)
_FORMAT = 1
_MAX_HEADER_BYTES = 1 << 20


@dataclass(frozen=True)
class Weights:
    """Everything a generator runs on.

    Attributes:
        networks: tables of Gs.
        average_w_id: float32 [L, W].
        decoders: factor (id, exp, gamma, rot) -> tables of its VAE decoder.
        sha256: of the contents above.
        sources: file name -> {"sha256", "bytes"} of what they were made from.
    """

    networks: NetworkTables
    average_w_id: Floats
    decoders: dict[str, dict[str, Floats]]
    sha256: str
    sources: dict[str, Any]


def source_files(folder: str | Path) -> dict[str, bool]:
    """The files that conversion needs, by their path within `folder`, and whether each is there.

    The average may be missing: it is computed then.
    """
    names = [NETWORK]
    for factor in FACTORS:
        names += [CHECKPOINT.format(factor=factor) + end for end in (".index", ".data-00000-of-00001")]
    return {name: (Path(folder) / name).is_file() for name in names}


def describe_files(folder: str | Path) -> str:
    """What belongs where in `folder`, what is missing, and on which terms."""
    folder = Path(folder).resolve()
    lines = [f"  {'found  ' if found else 'MISSING'}  {name}" for name, found in source_files(folder).items()]
    average = "found  " if (Path(folder) / AVERAGE).is_file() else "optional"
    lines.append(f"  {average}  {AVERAGE}")
    return (
        f"DiscoFaceGAN's published weights belong in {folder}:\n" + "\n".join(lines) + "\n"
        "Nothing is downloaded: fetch them from the pages of github.com/microsoft/DiscoFaceGAN (network and average) "
        "and its vae/weights folder.\n"
        f"License: {LICENSE}.\n"
        f"Then convert them once: python -m facelib.synthesis.discofacegan.convert {folder}"
    )


def save_weights(
    folder: str | Path,
    networks: NetworkTables,
    average_w_id: Floats,
    decoders: Mapping[str, Mapping[str, Floats]],
    sources: Mapping[str, Any],
) -> Path:
    """Write the converted file, whole or not at all. Returns its path."""
    arrays = {f"Gs/{name}": array for name, array in networks.variables.items()}
    for factor, tables in decoders.items():
        arrays |= {f"vae/{factor}/{name}": array for name, array in tables.items()}
    arrays["average_w_id"] = np.asarray(average_w_id, np.float32)
    header = {
        "format": _FORMAT,
        "name": networks.name,
        "version": networks.version,
        "static_kwargs": networks.static_kwargs,
        "sources": dict(sources),
    }
    header["sha256"] = _content_hash(arrays, networks.static_kwargs)
    path = Path(folder) / CONVERTED
    temporary = path.with_name(f".{CONVERTED}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            text = np.frombuffer(json.dumps(header, indent=1).encode(), np.uint8)
            np.savez(file, allow_pickle=False, header=text, **arrays)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read_header(folder: str | Path) -> dict[str, Any]:
    """The converted file's header, without its arrays: static_kwargs, sha256, sources ...

    Args:
        folder: path or URI.

    Raises:
        FileNotFoundError: not converted yet, or the published files are missing; the message says which.
        ValueError: the file is damaged or of another format.
    """
    if "://" in str(folder):
        return _read_remote_header(f"{str(folder).rstrip('/')}/{CONVERTED}")
    folder = Path(folder).resolve()
    path = folder / CONVERTED
    if not path.is_file():
        if all(source_files(folder).values()):
            raise FileNotFoundError(
                f"{path}: not there yet; convert the published files once: "
                f"python -m facelib.synthesis.discofacegan.convert {folder}"
            )
        raise FileNotFoundError(describe_files(folder))
    with path.open("rb") as file:
        return _header(file, str(path))


def _read_remote_header(uri: str) -> dict[str, Any]:
    """The header of a file behind a URI, of which only the header is transferred."""
    folder, _, name = uri.rpartition("/")
    source = Folder(folder)
    if not source.exists(name):
        raise FileNotFoundError(
            f"{uri}: not there; convert the published files on one machine and copy {CONVERTED} there. "
            f"License: {LICENSE}"
        )
    with source.fs.open_input_file(f"{source.path}/{name}") as file:
        return _header(file, uri)


def _header(file: Any, path: str) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(file) as archive:
            if archive.getinfo("header.npy").file_size > _MAX_HEADER_BYTES:
                raise ValueError("its header is too long")
            with archive.open("header.npy") as entry:
                header = json.loads(np.lib.format.read_array(entry, allow_pickle=False).tobytes())
        if not isinstance(header, dict) or header.get("format") != _FORMAT:
            raise ValueError("it has another format")
        Topology.from_static_kwargs(header["static_kwargs"])
        if not isinstance(header["sha256"], str) or not isinstance(header["sources"], dict):
            raise ValueError("its header is incomplete")
    except Exception as error:
        raise ValueError(_damaged(path, error)) from error
    return header


def load_weights(folder: str | Path) -> Weights:
    """The converted weights, every array checked against the settings and the recorded SHA-256.

    Args:
        folder: path, or URI: the file is then copied once a node, see `node_copy`.

    Raises:
        FileNotFoundError: not converted yet, or the published files are missing; the message says which.
        ValueError: the file is damaged.
    """
    header = read_header(folder)
    path = node_copy(f"{str(folder).rstrip('/')}/{CONVERTED}", header["sha256"])
    try:
        arrays = _read_arrays(path, Topology.from_static_kwargs(header["static_kwargs"]))
        if _content_hash(arrays, header["static_kwargs"]) != header["sha256"]:
            raise ValueError("its contents do not have the recorded SHA-256")
        decoders = {f: _part(arrays, f"vae/{f}/") for f in FACTORS}
        for factor, tables in decoders.items():
            check_decoder(tables, factor, str(path))
    except Exception as error:
        raise ValueError(_damaged(path, error)) from error
    networks = NetworkTables(header["name"], header["version"], header["static_kwargs"], _part(arrays, "Gs/"))
    return Weights(networks, arrays["average_w_id"], decoders, header["sha256"], header["sources"])


def _read_arrays(path: Path, topology: Topology) -> dict[str, Floats]:
    shapes: dict[str, tuple[int, ...] | None] = {f"Gs/{n}": shape for n, shape in topology.variables().items()}
    shapes |= {f"vae/{f}/{layer}/{part}": None for f in FACTORS for layer in LAYERS for part in ("kernel", "bias")}
    shapes["average_w_id"] = (topology.layers, topology.dlatent_size)
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        if entries.keys() != shapes.keys() | {"header"}:
            raise ValueError(
                f"arrays are missing or unknown: {sorted(entries.keys() ^ (shapes.keys() | {'header'}))[:5]}"
            )
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise ValueError("it is compressed")  # a few bytes must not unpack to any size
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in shapes}
    for name, shape in shapes.items():
        array = arrays[name]
        if array.dtype != np.float32 or (shape is not None and array.shape != shape) or not np.isfinite(array).all():
            raise ValueError(f"{name} is {array.dtype} {array.shape}, expected finite float32 {shape or ''}")
    return arrays


def _part(arrays: Mapping[str, Floats], prefix: str) -> dict[str, Floats]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _content_hash(arrays: Mapping[str, Floats], static_kwargs: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(dict(static_kwargs), sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name], np.dtype("<f4"))
        digest.update(f"{name} {arrays[name].shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _damaged(path: str | Path, error: Exception) -> str:
    again = f"python -m facelib.synthesis.discofacegan.convert {str(path).rpartition('/')[0]}"
    return f"{path}: damaged or not a converted DiscoFaceGAN ({error}); delete it and convert again: {again}"
