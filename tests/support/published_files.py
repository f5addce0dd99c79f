"""Files of other codebases' trainings, written from a state of ours, in their layouts."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def write_moco(path: Path, state: dict[str, Any], prefix: str = "module.") -> None:
    """`main_moco.py`'s checkpoint: epochs, the wrapped module's state_dict, the optimizer of all its parameters."""
    own = state["method"]
    model = {f"{prefix}queue": own["moco.queue"], f"{prefix}queue_ptr": own["moco.queue_pointer"].reshape(1)}
    for theirs, ours in (("encoder_q", "moco.query_encoder"), ("encoder_k", "moco.key_encoder")):
        model |= {
            f"{prefix}{theirs}.{name.removeprefix(f'{ours}.')}": value
            for name, value in own.items()
            if name.startswith(f"{ours}.")
        }
    names = [name.removeprefix(f"{prefix}encoder_q.") for name in model if f"{prefix}encoder_q." in name]
    trained = [name for name in names if not name.endswith(BUFFERS)]
    # `features.weight` and the key encoder are numbered, but have no momentum.
    numbers = {name: number for number, name in enumerate(trained)}
    optimizer = _optimizer(state, [name for name in trained if name != "features.weight"], numbers, 2 * len(trained))
    torch.save({"epoch": state["epoch"], "arch": "iresnet", "state_dict": model, "optimizer": optimizer}, path)


def write_usynthface(folder: Path, state: dict[str, Any]) -> Path:
    """`checkpoint_NNN.pth`: MoCo's state_dict alone."""
    write_moco(folder / "moco.pth", state, prefix="")
    path = folder / f"checkpoint_{state['epoch']:03d}.pth"
    torch.save(torch.load(folder / "moco.pth", weights_only=True)["state_dict"], path)
    return path


def write_unpg(path: Path, state: dict[str, Any], head: str = "arcface") -> None:
    """`last.pt`: backbone and head as pickled modules, the optimizer of both, the index of the last epoch."""
    own = state["method"]
    backbone = {n.removeprefix("network."): v for n, v in own.items() if n.startswith("network.")}
    weight, layer = own["softmax.head.weight"], "head.module.fc.weight" if head == "magface" else "head.module.weight"
    loss = pickled_module({layer: weight.T.contiguous() if head == "magface" else weight})
    loss.head_name = head
    names = [name for name in backbone if not name.endswith(BUFFERS)]
    optimizer = _optimizer(state, [*names, "head"], {n: i for i, n in enumerate([*names, "head"])}, len(names) + 1)
    if head == "magface":
        entry = optimizer["state"][len(names)]
        entry["momentum_buffer"] = entry["momentum_buffer"].T.contiguous()
    content = {"epoch": state["epoch"] - 1, "best_acc": 0.5, "backbone": pickled_module(backbone)}
    torch.save({**content, "optimizer": optimizer, "scheduler": {"last_iter": 7}, "headandloss": loss}, path)


def pickled_module(state: dict[str, torch.Tensor]) -> nn.Module:
    """Modules with these tensors, as `torch.save(module)` pickles them."""
    root = nn.Module()
    for name, value in state.items():
        *parents, key = name.split(".")
        module = root
        for parent in parents:
            if parent not in module._modules:
                module.add_module(parent, nn.Module())
            module = module._modules[parent]
        if name.endswith(BUFFERS):
            module.register_buffer(key, value)
        else:
            module.register_parameter(key, nn.Parameter(value))
    return root


def _optimizer(state: dict[str, Any], trained: list[str], numbers: dict[str, int], count: int) -> dict[str, Any]:
    """SGD's state_dict in another numbering; `trained` in the order of ours."""
    stored = state["optimizer"]["state"]
    assert len(stored) == len(trained)
    renumbered = {numbers[name]: dict(stored[index]) for index, name in enumerate(trained)}
    return {"state": renumbered, "param_groups": [{"lr": 0.1, "momentum": 0.9, "params": list(range(count))}]}
