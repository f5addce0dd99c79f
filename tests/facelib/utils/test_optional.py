"""Packages that only some features need."""

import sys

import pytest

from facelib.utils.optional import require_extra


def test_installed_packages_pass_and_missing_ones_say_what_to_install():
    require_extra("plots", "plotting", "json", "ast")
    with pytest.raises(ImportError, match=r"^plotting needs no_such_a and no_such_b: pip install 'facelib\[plots\]'$"):
        require_extra("plots", "plotting", "no_such_a", "json", "no_such_b")


def test_packages_are_not_imported():
    sys.modules.pop("this", None)
    require_extra("plots", "plotting", "this")
    assert "this" not in sys.modules
