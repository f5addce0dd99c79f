"""Packages that only some features need, each in an extra of pyproject.toml."""

import importlib.util


def require_extra(extra: str, feature: str, *packages: str) -> None:
    """Check that packages are installed, without importing them.

    Args:
        extra: the extra of facelib that installs them, such as "plots".
        feature: what needs them, as the subject of a sentence.

    Raises:
        ImportError: a package is missing; the message says what to install.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"{feature} needs {' and '.join(missing)}: pip install 'facelib[{extra}]'")
