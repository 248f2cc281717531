"""Check that files are real pictures: `python check_pictures.py FOLDER NAME...`."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
FEWEST_PIXELS = 400  # along the shorter side
FEWEST_COLOURS = 300  # black text and axes with smoothed edges alone make 256 greys


def check(path: Path) -> str:
    """Return what is in the picture, or end the program saying what is wrong with it."""
    if not path.is_file():
        sys.exit(f"{path.name}: was not written")
    if path.read_bytes()[: len(SIGNATURE)] != SIGNATURE:
        sys.exit(f"{path.name}: is not a PNG file")
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    height, width, _ = pixels.shape
    colours = len(np.unique(pixels.reshape(-1, 3), axis=0))
    coloured = int((np.ptp(pixels.astype(int), axis=2) > 40).sum())
    if min(height, width) < FEWEST_PIXELS:
        sys.exit(f"{path.name}: {width} x {height} pixels are too few")
    if colours < FEWEST_COLOURS or coloured < 0.002 * height * width:
        sys.exit(f"{path.name}: {colours} colours, {coloured} coloured pixels: nothing seems to be drawn")
    return f"{path.name}: {width} x {height}, {colours:,} colours"


for name in sys.argv[2:]:
    print(check(Path(sys.argv[1]) / name))
