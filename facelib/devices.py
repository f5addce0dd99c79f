"""Names of the devices that networks run on."""


def check_device(device: str) -> None:
    """Raise ValueError unless the device is `auto`, `cpu` or `cuda`."""
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is {device!r}: choose 'auto', 'cpu' or 'cuda'")
