import os
import subprocess
import sys

import pytest
import torch
from support.fake_cuda import StepWatch, fake_cuda

from facelib.utils.devices import actor_device, check_device, exact_float32, gpu_visible, set_cuda_precision, to_device


def test_devices_have_three_names():
    for device in ("auto", "cpu", "cuda"):
        check_device(device)
    with pytest.raises(ValueError, match="device is 'tpu'"):
        check_device("tpu")


def test_an_actor_computes_on_what_it_holds():
    threads = torch.get_num_threads()
    try:
        assert actor_device(gpus=0, cpus=0.5) == torch.device("cpu")
        assert torch.get_num_threads() == 1
        assert actor_device(gpus=0.25, cpus=1) == torch.device("cuda")
    finally:
        torch.set_num_threads(threads)


def test_precision_of_gpus_is_as_asked_for():
    try:
        for tf32, precision in ((True, "tf32"), (False, "ieee")):
            set_cuda_precision(tf32, cudnn_benchmark=tf32)
            assert torch.backends.cuda.matmul.fp32_precision == precision
            assert torch.backends.cudnn.conv.fp32_precision == precision
            assert torch.backends.cudnn.benchmark == tf32
            with exact_float32():
                assert torch.backends.cuda.matmul.fp32_precision == "ieee"
                assert torch.backends.cudnn.conv.fp32_precision == "ieee"
            assert torch.backends.cuda.matmul.fp32_precision == precision
            assert torch.backends.cudnn.conv.fp32_precision == precision
    finally:
        set_cuda_precision(tf32=False)


def test_a_copy_to_a_gpu_does_not_make_the_host_wait():
    with fake_cuda():
        tensor = torch.zeros(3)
        with StepWatch():
            assert to_device(tensor, torch.device("cuda")).device.type == "cuda"
    assert to_device(torch.ones(3), torch.device("cpu")).tolist() == [1, 1, 1]


def test_a_process_knows_without_pytorch_whether_it_may_have_a_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not gpu_visible()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert gpu_visible() == any(os.path.exists(path) for path in ("/dev/nvidiactl", "/dev/dxg"))
    code = (
        "import sys, numpy\n"
        "from facelib.alignment import build_detector\n"
        "build_detector('retinaface').detect([numpy.zeros((64, 64, 3), numpy.uint8)])\n"
        "from facelib.utils.devices import gpu_visible\n"
        "assert gpu_visible() or 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
