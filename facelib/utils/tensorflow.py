"""TensorFlow, imported when it is needed: quiet, on a bounded number of threads, GPU memory taken as needed.

The one way in for all that runs on it (DiscoFaceGAN, MTCNN): these settings are TensorFlow's own, so they hold for the
whole process, and the process that comes first sets them.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from typing import Any

from facelib.utils.devices import check_device
from facelib.utils.optional import require_extra


def require_tensorflow(what: str, *packages: str) -> None:
    """Look for TensorFlow, and packages besides it, without importing them.

    Raises:
        ImportError: says that `what` needs them, and what to install.
    """
    require_extra("tensorflow", what, "tensorflow", *packages)


def import_tensorflow(threads: int = 1, what: str = "DiscoFaceGAN") -> Any:
    """The module `tensorflow`, set to `threads` CPU threads.

    The number can be set before TensorFlow's first operation of the process only; later, a warning says that it has no
    effect. Results do not depend on it.

    Raises:
        ImportError: TensorFlow is not installed; says that `what` needs it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    require_tensorflow(what)
    import tensorflow

    threading = tensorflow.config.threading
    if threading.get_intra_op_parallelism_threads() != threads:
        try:
            threading.set_intra_op_parallelism_threads(threads)
            threading.set_inter_op_parallelism_threads(threads)
        except RuntimeError:
            running = threading.get_intra_op_parallelism_threads() or "its default number of"
            warnings.warn(
                f"threads is {threads}, but TensorFlow already runs in this process with {running} threads, which stay",
                stacklevel=3,
            )
    return tensorflow


def device_name(tf: Any, device: str) -> str:
    """TensorFlow's name of `auto`, `cpu` or `cuda`.

    Raises:
        ValueError: an unknown device, or CUDA wanted where TensorFlow sees none.
    """
    check_device(device)
    gpus = [] if device == "cpu" else tf.config.list_physical_devices("GPU")
    if device == "cuda" and not gpus:
        raise ValueError(
            "device is 'cuda', but TensorFlow sees no GPU: pip install 'tensorflow[and-cuda]', or use 'cpu'"
        )
    for gpu in gpus:
        # Refused once TensorFlow has started on the GPU; then the process that started it has decided.
        with contextlib.suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, True)
    if gpus:
        # Same bytes on every run, and float32 that is float32: TensorFloat-32 keeps 10 bits only.
        tf.config.experimental.enable_op_determinism()
        tf.config.experimental.enable_tensor_float_32_execution(False)
    return "GPU:0" if gpus else "CPU:0"


def free_memory(device: str) -> int:
    """Bytes that a process may still take on a device named by `device_name`."""
    if device.startswith("CPU"):
        import psutil

        return int(psutil.virtual_memory().available)
    from tensorflow.python.client import device_lib

    return next(int(found.memory_limit) for found in device_lib.list_local_devices() if found.device_type == "GPU")
