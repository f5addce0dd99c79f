"""One TensorFlow for all that runs on it."""

import subprocess
import sys

import pytest

from facelib.utils.tensorflow import device_name, free_memory, import_tensorflow, require_tensorflow

pytest.importorskip("tensorflow")


def test_smallest_example():
    tf = import_tensorflow()
    assert device_name(tf, "cpu") == "CPU:0"
    assert free_memory("CPU:0") > 1_000_000
    with pytest.raises(ValueError, match="device is 'gpu'"):
        device_name(tf, "gpu")


def test_whoever_comes_first_sets_the_threads():
    """In a process of its own: a generator and a detector ask for different numbers."""
    code = (
        "import warnings, numpy as np\n"
        "from facelib.alignment import build_detector\n"
        "from facelib.utils.tensorflow import import_tensorflow\n"
        "tf = import_tensorflow(2)\n"
        "tf.constant(1) + 1\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    build_detector('mtcnn', threads=3).detect([np.zeros((40, 40, 3), np.uint8)])\n"
        "    build_detector('mtcnn', threads=2).detect([np.zeros((40, 40, 3), np.uint8)])\n"
        "told = [str(w.message) for w in caught if 'threads' in str(w.message)]\n"
        "assert len(told) == 1 and 'threads is 3' in told[0] and 'with 2 threads, which stay' in told[0], told\n"
        "assert tf.config.threading.get_intra_op_parallelism_threads() == 2\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_missing_is_named():
    with pytest.raises(ImportError, match=r"the thing needs no_such_package: pip install 'facelib\[tensorflow\]'"):
        require_tensorflow("the thing", "no_such_package")
