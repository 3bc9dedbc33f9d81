"""Pictures of states, drawn with Pillow: no display is needed. Every picture is (H, W, 3) uint8."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, LINE = (250, 250, 248), (40, 40, 40), (222, 222, 216)
FOOD, ALLY, ENEMY = (196, 62, 48), (38, 98, 178), (198, 84, 28)
AGENTS = ((38, 98, 178), (0, 128, 104), (120, 72, 160), (176, 110, 0), (92, 92, 92), (180, 50, 110))  # in turn
HEALTHY, HURT = (46, 150, 70), (205, 205, 200)
SIZE = 480  # pixels across, about
STRIP = 26  # height of a line of text


@lru_cache
def font(size: int) -> Any:
    """Pillow's own font."""
    return ImageFont.load_default(size)


def strip(text: str, width: int, colour: tuple[int, int, int] = INK) -> np.ndarray:
    """A line of text, (STRIP, width, 3), in letters small enough to fit."""
    image = Image.new("RGB", (width, STRIP), PAPER)
    size = next((s for s in range(14, 8, -1) if font(s).getlength(text) <= width - 12), 8)
    ImageDraw.Draw(image).text((6, STRIP // 2), text, fill=colour, font=font(size), anchor="lm")
    return np.asarray(image)


def foraging(field: np.ndarray, players: Sequence[tuple[tuple[int, int], int]]) -> np.ndarray:
    """Level-Based Foraging.

    :param field: (rows, columns), the level of the food in each cell, 0 where there is none.
    :param players: (row, column) and level of each.
    """
    rows, columns = field.shape
    cell = max(20, min(80, SIZE // columns))
    width, height = columns * cell + 1, rows * cell + 1
    image = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(image)
    for column in range(columns + 1):
        draw.line((column * cell, 0, column * cell, height), fill=LINE)
    for row in range(rows + 1):
        draw.line((0, row * cell, width, row * cell), fill=LINE)

    def mark(row: int, column: int, level: int, colour: tuple[int, int, int], square: bool) -> None:
        gap = cell // 8
        box = (column * cell + gap, row * cell + gap, (column + 1) * cell - gap, (row + 1) * cell - gap)
        if square:
            draw.rounded_rectangle(box, radius=cell // 8, fill=colour)
        else:
            draw.ellipse(box, fill=colour)
        middle = ((column + 0.5) * cell, (row + 0.5) * cell)
        draw.text(middle, str(level), fill=PAPER, font=font(cell // 2), anchor="mm")

    for row, column in np.argwhere(field > 0):
        mark(int(row), int(column), int(field[row, column]), FOOD, square=False)
    for i, ((row, column), level) in enumerate(players):
        mark(row, column, level, AGENTS[i % len(AGENTS)], square=True)
    return np.concatenate([np.asarray(image), strip("squares: agents · red circles: food · numbers: levels", width)])


def battle(
    positions: np.ndarray,
    health: np.ndarray,
    radii: np.ndarray,
    labels: Sequence[str],
    n_allies: int,
    shots: Sequence[tuple[int, int]],
    map_size: tuple[float, float],
    banner: str,
) -> np.ndarray:
    """Two teams of round units, U in all, the allies first; dead ones are left out.

    :param positions: (U, 2), in map units, y upwards.
    :param health: (U,), as a share of the full health; 0 is dead.
    :param radii: (U,), in map units.
    :param labels: the letter or two for each unit's type.
    :param shots: (who, whom).
    :param banner: the line above the picture.
    """
    scale = SIZE / map_size[0]
    width, height = SIZE, round(map_size[1] * scale)
    image = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(image)
    spots = [(float(x) * scale, height - float(y) * scale) for x, y in positions]
    alive = [bool(share > 0) for share in health]
    for who, whom in shots:
        if alive[who]:
            draw.line((*spots[who], *spots[whom]), fill=ALLY if who < n_allies else ENEMY, width=1)
    for i, (x, y) in enumerate(spots):
        if not alive[i]:
            continue
        r = max(7.0, float(radii[i]) * scale)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=ALLY if i < n_allies else ENEMY)
        draw.text((x, y), labels[i], fill=PAPER, font=font(round(1.3 * r)), anchor="mm")
        top, left, right = y - r - 6, x - r, x + r
        draw.rectangle((left, top, right, top + 3), fill=HURT)
        draw.rectangle((left, top, left + (right - left) * float(min(1.0, health[i])), top + 3), fill=HEALTHY)
    ours, theirs = sum(alive[:n_allies]), sum(alive[n_allies:])
    draw.text((6, height - 6), f"ours {ours}", fill=ALLY, font=font(14), anchor="ls")
    draw.text((width - 6, height - 6), f"theirs {theirs}", fill=ENEMY, font=font(14), anchor="rs")
    draw.rectangle((0, 0, width - 1, height - 1), outline=LINE)
    return np.concatenate([strip(banner, width, FOOD), np.asarray(image)])
