"""Copy the photographs of Debian's package tuxpaint-stamps-default into one folder per class.

    apt-get download tuxpaint-stamps-default
    dpkg -x tuxpaint-stamps-default_*.deb package
    python scripts/bench/stamps.py package/usr/share/tuxpaint/stamps photos

The package (version 2022.06.04-1) has 796 PNG files: photographs of things with a transparent background, and drawings.
A class is used if it has at least 14 photographs.
"""

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path

CLASSES = {  # files of each class, relative to the folder of stamps
    "birds": ["animals/birds/*.png"],
    "coins": ["symbols/money/canadian/coins/*.png", "symbols/money/japanese/*.png", "symbols/money/us/coins/*.png"],
    "flowers": ["plants/flowers/**/*.png"],
    "fruit": ["food/fruit/*.png"],
    "household": ["household/*.png", "household/dishes/*.png", "household/dishes/utensils/*.png"],
    "mammals": ["animals/mammals/**/*.png"],
    "plants": ["plants/*.png", "plants/mushrooms/*.png", "plants/trees/*.png"],
    "tools": ["household/arttools/*.png", "household/tools/*.png"],
    "vegetables": ["food/vegetables/*.png"],
    "vehicles": [
        *("vehicles/garbagetruck.png", "vehicles/auto/*.png", "vehicles/construction/*.png", "vehicles/cycle/*.png"),
        *("vehicles/emergency/firetruck.png", "vehicles/flight/planes/*.png", "vehicles/masstransit/*.png"),
        *("vehicles/race/*.png", "military/vehicles/*.png"),
    ],
}
SKIPPED_FOLDERS = {"cartoon", "toys"}
COPIES = {"apple_red", "bradley_mirror", "dumper_mirror", "measuring_tape_mirror"}  # of other files, changed
DRAWINGS = {  # drawings and paintings, and pictures that may be one
    *("lark", "penguin", "quetzal", "tucan", "turkey"),
    *("badger", "dog", "dromedary", "echidna", "hedgehog", "indian_blackbuck", "orca", "rhino_black", "tiger_sumatran"),
    *("glass", "highlighter", "pen_dryerase"),
}


def photographs(stamps: Path, patterns: list[str]) -> Iterator[Path]:
    """Yield the photographs that match one of the patterns, relative to the folder of stamps."""
    for path in sorted(path for pattern in patterns for path in stamps.glob(pattern)):
        relative = path.relative_to(stamps)
        if path.stem not in COPIES | DRAWINGS and SKIPPED_FOLDERS.isdisjoint(relative.parts):
            yield relative


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stamps", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    for label, patterns in CLASSES.items():
        folder, paths = options.out / label, list(photographs(options.stamps, patterns))
        folder.mkdir(parents=True)
        for path in paths:
            shutil.copyfile(options.stamps / path, folder / "-".join(path.parts))
        print(f"{label}: {len(paths)}")


if __name__ == "__main__":
    main()
