"""What it takes to plan very large slices: seconds of processor time, and the largest memory meanwhile.

    python benchmarks/planning.py [--side 65536]

The published 2D-3D net and 20 slices of so many voxels a side: with too little memory, with memory for many tiles, and
for few; and the geometry of all tiles of such a plan, as a run asks for it: what each owns and reads.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc

from densecell_batch.errors import OptionError
from densecell_batch.inference.planning import Plan, plan_tiles
from densecell_batch.nets.architecture import published

DEFAULT = (4096, 8192, 16384, 24576, 65536)


def plan(side: int, stitch: str, budget: int) -> Plan | None:
    """The plan; None if the memory does not suffice."""
    try:
        return plan_tiles((20, side, side), published("2d3d"), (5, 300, 300), stitch=stitch, budget=budget)
    except OptionError:
        return None


def walk(made: Plan) -> int:
    """Ask of each tile of each band what a run asks; how many tiles that are."""
    grid, number = made.grid, 0
    for band in made.bands:
        for z in range(len(grid.z.corners)):
            for tile in grid.row(z, grid.y.touching(made.rule, *band)):
                tile.within(tile.owned)
                for axis, i in zip(grid.axes, tile.index, strict=True):
                    axis.input_indices(i)
                number += 1
    return number


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, action="append", help="instead of the usual ones; several times, if wanted")
    options = parser.parse_args()
    print(f"{'side':>7}{'stitch':>8}{'GiB':>7}{'tiles':>9}{'bands':>7}{'plan s':>9}{'peak MiB':>10}{'tiles s':>9}")
    for side in options.side or DEFAULT:
        slice_bytes = 20 * side**2  # what a slice takes while it is put together, at least
        for stitch in ("crop", "blend"):
            for budget in (2**30 + slice_bytes // 2, 2**30 + 4 * slice_bytes, 2**33 + 400 * slice_bytes):
                begun = time.process_time()
                made = plan(side, stitch, budget)
                seconds = time.process_time() - begun
                tracemalloc.start()
                plan(side, stitch, budget)
                peak = tracemalloc.get_traced_memory()[1] / 2**20
                tracemalloc.stop()
                begun = time.process_time()
                tiles, bands = ("refused", "") if made is None else (walk(made), len(made.bands))
                geometry = time.process_time() - begun
                row = f"{side:>7}{stitch:>8}{budget / 2**30:>7.0f}{tiles:>9}{bands:>7}"
                print(f"{row}{seconds:>9.2f}{peak:>10.1f}{geometry:>9.2f}", flush=True)


if __name__ == "__main__":
    main()
