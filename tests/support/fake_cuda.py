"""Code that runs on `cuda` tensors, tested on a machine without a GPU: every operation is looked at, none computed.

    with fake_cuda(ranks=2):
        model = Model().to("cuda")
        with StepWatch() as step:
            model(torch.randn(8, 3, 112, 112, device="cuda")).backward()
    assert step.collectives == {"allgather": 1}

Inside `fake_cuda` tensors are fake (`FakeTensorMode`): they have shapes, types and devices. `StepWatch` counts, and
refuses operations for which the host would wait for the device and those that mix devices. What it cannot see:
kernels that synchronize inside.
"""

import collections
import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

COPIES = {"aten::_to_copy", "aten::copy_"}
# Launch nothing: they allocate, or ask for what the host knows.
SILENT = {"aten::lift_fresh", "aten::detach", "aten::empty", "aten::empty_like", "aten::new_empty", "prim::device"}


class HostWaitsError(AssertionError):
    """An operation for which the host waits for the device, or that mixes devices."""


class StepWatch(TorchDispatchMode):
    """What ran: `operations` on the device, `collectives` and the bytes they bring to a rank, by name, as counters."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: collections.Counter[str] = collections.Counter()
        self.collectives: collections.Counter[str] = collections.Counter()
        self.received_bytes: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        space, name = func._schema.name.split("::")
        if name.startswith("_fused_"):  # optimizers, in place: neither
            self.operations[name] += 1
            return None
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        try:
            result = func(*args, **kwargs)
        except DataDependentOutputException:
            raise HostWaitsError(f"{name} reads a value from the device") from None
        except DynamicOutputShapeException:
            raise HostWaitsError(f"{name} has a shape that only the device knows") from None
        outputs = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        devices = {x.device.type for x in inputs + outputs}
        if "cuda" not in devices:
            return result
        if func._schema.name in COPIES:
            check_copy(func._schema.name, args, outputs[0], kwargs)
        elif space != "prim" and any(x.device.type == "cpu" and x.ndim for x in inputs):
            raise HostWaitsError(f"{name} mixes devices: {[(str(x.device), list(x.shape)) for x in inputs]}")
        if space == "c10d":
            self.collectives[name.removesuffix("_")] += 1
            self.received_bytes[name.removesuffix("_")] += sum(x.nbytes for x in tree_leaves(args[0]))
        elif func._schema.name not in SILENT and not func.is_view:
            self.operations[name] += 1
        return result


def check_copy(name: str, args: Any, result: Tensor, kwargs: Any) -> None:
    """Raise unless the copy stays on the device, or is one to it that the host does not wait for."""
    source = args[1] if name == "aten::copy_" else args[0]
    if (source.device.type, result.device.type) == ("cuda", "cpu"):
        raise HostWaitsError(f"{list(source.shape)} is copied from the device")
    waits = not (kwargs.get("non_blocking") or (name == "aten::copy_" and len(args) > 2 and args[2]))
    if source.device.type == "cpu" and waits:
        raise HostWaitsError(f"{list(source.shape)} is copied to the device without non_blocking=True")


class HostGenerator(torch.Generator):
    """A generator on any device: that of a GPU would need its driver, and fake tensors do not draw."""

    def __new__(cls, device: Any = "cpu") -> "HostGenerator":
        return super().__new__(cls, "cpu")


@contextlib.contextmanager
def fake_cuda(ranks: int = 1) -> Iterator[None]:
    """Fake tensors, and the first of `ranks` ranks of a process group that sends nothing."""
    with contextlib.ExitStack() as stack:
        if ranks > 1:
            dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
            stack.callback(dist.destroy_process_group)
        stack.enter_context(mock.patch.object(torch.Tensor, "backward", backward))
        # Autocast asks whether there is a GPU, and whether it knows bfloat16.
        stack.enter_context(mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False))
        stack.enter_context(mock.patch("torch.cuda.is_bf16_supported", return_value=True))
        stack.enter_context(mock.patch.object(torch.Tensor, "pin_memory", torch.Tensor.clone))
        # PyTorch's own look at the data of a tensor, which a fake one does not have.
        stack.enter_context(mock.patch.object(torch.Tensor, "__deepcopy__", copied))
        stack.enter_context(mock.patch.object(nn.Module, "_apply", convert))
        stack.enter_context(mock.patch.object(torch, "Generator", HostGenerator))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield


def copied(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    """copy.deepcopy(tensor)."""
    copy = tensor.detach().clone()
    return nn.Parameter(copy, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copy


@torch.no_grad()
def convert(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """module.to(…)."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(change(parameter), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = change(buffer)
    return module


@torch.no_grad()
def backward(loss: Tensor) -> None:
    """loss.backward() in Python: autograd's own engine asks the driver for streams before it calls the first node."""
    assert loss.grad_fn is not None
    waiting: collections.Counter[Any] = collections.Counter()  # edges by which gradients still come
    stack, seen = [loss.grad_fn], {loss.grad_fn}
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is None:
                continue
            waiting[node] += 1
            if node not in seen:
                seen.add(node)
                stack.append(node)
    gradients: dict[Any, dict[int, Tensor]] = {loss.grad_fn: {0: torch.ones_like(loss)}}
    ready = [loss.grad_fn]
    while ready:
        node = ready.pop()
        own = gradients.pop(node, {})
        if hasattr(node, "variable"):
            leaf, found = node.variable, own.get(0)
            if found is not None:
                leaf.grad = found if leaf.grad is None else leaf.grad + found
            continue
        results = call(node, [own.get(i) for i in range(len(node._input_metadata))]) if own else ()
        for (following, index), gradient in zip(node.next_functions, results or [None] * len(node.next_functions)):
            if following is None:
                continue
            if gradient is not None:
                expected = following._input_metadata[index]  # a node may send what broadcasts to it, in another type
                gradient = gradient.sum_to_size(expected.shape).to(expected.dtype)
                slots = gradients.setdefault(following, {})
                slots[index] = slots[index] + gradient if index in slots else gradient
            waiting[following] -= 1
            if not waiting[following]:
                ready.append(following)


def call(node: Any, gradients: list[Tensor | None]) -> tuple[Tensor | None, ...]:
    """The gradients that a node of the graph sends on."""
    results = (
        node.apply(*gradients) if isinstance(node, torch.autograd.function.BackwardCFunction) else node(*gradients)
    )
    return results if isinstance(results, tuple) else (results,)
