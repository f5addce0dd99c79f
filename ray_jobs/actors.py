"""Actors of jobs: what every actor process sets up before it works."""

import os
import sys
from typing import Any


def device_options(options: dict[str, Any], gpus: float) -> dict[str, Any]:
    """Options of a generator or detector, with `device` added where its actors reserve `gpus` each."""
    return {"device": "cuda", **options} if gpus > 0 else dict(options)


def limit_actor_threads(gpus: float) -> None:
    """Restrict an actor process to the resources it reserved.

    Hides all GPUs unless it reserved a share of one, and limits each library to one thread: actors are the parallelism,
    thread pools inside them would compete for the same cores.
    """
    import cv2

    if gpus == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves it as it is, and libraries use every GPU they see.
    cv2.setNumThreads(1)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
