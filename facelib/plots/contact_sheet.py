"""Contact sheets: a grid of face images with row labels in one PNG file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facelib.data.storage import atomic_file
from facelib.utils.optional import require_extra

GAP = 2
MARGIN = 8
FONT_SIZE = 14
TITLE_SIZE = 18
BACKGROUND = (255, 255, 255)
MISSING = (232, 232, 232)
INK = (40, 40, 40)


def contact_sheet(
    images: Any, path: str | os.PathLike[str], row_labels: Sequence[str] | None = None, title: str | None = None
) -> Path:
    """Write a grid of images as PNG; the file appears complete or not at all.

    Args:
        images: RGB uint8 [rows, columns, H, W, 3], or a list of rows, each a list of images [H, W, 3] or None (left
            gray). Rows may differ in length, images in size (each stands in the top left of its cell).
        path: PNG file to write; its folder is created.
        row_labels: one text per row, written left of it.
        title: text above the grid.

    Returns:
        The path written.

    Raises:
        ValueError: no image, an image of another shape or type, a number of labels other than the number of rows.
    """
    rows = [[_checked(image, r, c) for c, image in enumerate(row)] for r, row in enumerate(images)]
    present = [image for row in rows for image in row if image is not None]
    if not present:
        raise ValueError("images holds no image: a contact sheet needs at least one")
    if row_labels is not None and len(row_labels) != len(rows):
        raise ValueError(f"row_labels has {len(row_labels)} texts for {len(rows)} rows of images")
    height, width = (max(image.shape[axis] for image in present) for axis in (0, 1))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = _draw(rows, height, width, [str(label) for label in row_labels or []], title)
    with atomic_file(path) as file:
        sheet.save(file, format="PNG")
    return path


def _checked(image: Any, row: int, column: int) -> NDArray[np.uint8] | None:
    if image is None:
        return None
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ValueError(f"images[{row}][{column}] must be uint8 [H, W, 3], got {array.dtype} {list(array.shape)}")
    return array


def _draw(
    rows: list[list[NDArray[np.uint8] | None]], height: int, width: int, labels: list[str], title: str | None
) -> Any:
    require_extra("plots", "a contact sheet", "PIL")

    from PIL import Image, ImageDraw, ImageFont

    font, title_font = ImageFont.load_default(FONT_SIZE), ImageFont.load_default(TITLE_SIZE)
    columns = max(len(row) for row in rows)
    label_width = max((int(np.ceil(font.getlength(label))) for label in labels), default=0)
    left = MARGIN + (label_width + MARGIN if labels else 0)
    top = MARGIN + (TITLE_SIZE + MARGIN if title else 0)
    title_width = int(np.ceil(title_font.getlength(title))) + 2 * MARGIN if title else 0
    size = (
        max(left + columns * (width + GAP) - GAP + MARGIN, title_width),
        top + len(rows) * (height + GAP) - GAP + MARGIN,
    )
    sheet = Image.new("RGB", size, BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    if title:
        pen.text((MARGIN, MARGIN), title, fill=INK, font=title_font)
    for r, label in enumerate(labels):
        pen.text((MARGIN, top + r * (height + GAP) + height // 2), label, fill=INK, font=font, anchor="lm")
    sheet.paste(Image.fromarray(tile_images(rows, columns, height, width, GAP)), (left, top))
    return sheet


def tile_images(
    rows: Sequence[Sequence[NDArray[Any] | None]], columns: int, height: int, width: int, gap: int
) -> NDArray[np.uint8]:
    """Rows of RGB images in cells of [height, width, 3], `gap` pixels between them, on white; None is a gray cell."""
    sheet = np.full((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3), BACKGROUND, np.uint8)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            top, left = r * (height + gap), c * (width + gap)
            if image is None:
                sheet[top : top + height, left : left + width] = MISSING
            else:
                sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet
