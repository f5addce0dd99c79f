"""Code in the documentation."""

import re

from support.commands import ROOT


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language on a page of docs/."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.S)
