"""What it takes to tell objects apart and to measure them, and how well touching solids are told apart.

    python benchmarks/objects.py [speed] [depth] [many] [quality] [surface]

*speed*: 20 x 2048 x 2048 labels with 10,000 objects that all touch. *depth*: the memory for stacks of more and more
slices. *many*: 70,000 objects, more than an image of ImageJ can number. Each row is a process of its own, on labels in
a file; beside the seconds of the clock stand those of the processor, which depend less on what else is running.
*quality*: known solids that touch, as connected components and parted at their necks. *surface*: that of balls, as the
tables have it, and of a mesh around the same voxels.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from densecell_batch.calibration import VoxelSize
from densecell_batch.io.reading import open_labels
from densecell_batch.io.writing import StackWriter
from densecell_batch.measure.instances import Instances, find_instances, of_class
from densecell_batch.measure.objects import ObjectSums
from densecell_batch.measure.split import split_instances
from densecell_batch.runs.measured import measure_labels
from densecell_batch.runs.object_options import ObjectOptions

Shape = tuple[int, int, int]

SLABS = VoxelSize(0.05, 0.01, 0.01)
CUBES = VoxelSize(0.01, 0.01, 0.01)
SPEED = (20, 2048, 2048), (4, 50, 50)  # shape, objects along each axis
MANY = (35, 1536, 1536), (7, 100, 100)
SIDE, DEPTHS = 1024, (20, 80, 160)


def write_lattice(path: Path, shape: Shape, objects: Shape) -> None:
    """Labels of ellipsoids in rows and columns, each a little wider than its place: all of them touch."""
    with StackWriter(path, shape, "uint8", voxel_size=SLABS) as writer:
        places = [(np.arange(n) + 0.5) * m / n for n, m in zip(shape, objects, strict=True)]
        dz, dy, dx = (2 * (place % 1) - 1 for place in places)
        for z in range(shape[0]):
            inside = dz[z] ** 2 + dy[:, None] ** 2 + dx**2 < 1.04**2
            writer.write(z, inside.astype(np.uint8))
        writer.commit()


# One measurement in a process of its own


def one(kind: str, path: Path, folder: Path) -> dict[str, float]:
    """Seconds of the clock and of the processor, peak of resident memory, number of objects."""
    begun, busy = time.perf_counter(), time.process_time()
    count = KINDS[kind](path, folder)
    seconds, busy = time.perf_counter() - begun, time.process_time() - busy
    # ru_maxrss would be that of the parent where this is larger; the kernel counts VmHWM from the start of the program.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 2**10
    return {"seconds": seconds, "busy": busy, "peak_mib": peak, "objects": count}


def components(path: Path, folder: Path) -> int:
    """Connected components alone: found, and the numbers of all slices read."""
    with open_labels(path) as labels:
        return _read(find_instances(of_class(labels.read, 1), len(labels)))


def split(path: Path, folder: Path) -> int:
    """Parted at necks: found, and the numbers of all slices read."""
    with open_labels(path) as labels, tempfile.TemporaryFile(dir=folder) as scratch:
        return _read(split_instances(of_class(labels.read, 1), len(labels), SLABS, scratch, folder=folder))


def tables(path: Path, folder: Path) -> int:
    """All that `instances` writes without --rois."""
    return _measured(path, folder, ObjectOptions(split=True))


def everything(path: Path, folder: Path) -> int:
    """All that `instances --rois` writes."""
    return _measured(path, folder, ObjectOptions(split=True, rois=True))


def startup(path: Path, folder: Path) -> int:
    """Nothing: the program and its libraries."""
    return 0


KINDS: dict[str, Callable[[Path, Path], int]] = {
    "the libraries alone": startup,
    "connected components": components,
    "parted at necks (--split)": split,
    "instances --split": tables,
    "instances --split --rois": everything,
}


def _read(found: Instances) -> int:
    for plane in found.slices():
        plane.max()
    return len(found)


def _measured(path: Path, folder: Path, options: ObjectOptions) -> int:
    done = measure_labels(path, folder / "out", options, classes=("rest", "thing"))
    return int(json.loads(done.record.read_text(encoding="utf-8"))["objects"]["thing"]["count"])


def apart(kind: str, path: Path) -> dict[str, float]:
    """`one` in a process of its own."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        command = [sys.executable, __file__, "--one", kind, "--labels", str(path), "--folder", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        written = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    return json.loads(done.stdout.splitlines()[-1]) | {"written_mib": written / 2**20}


# Tables


def table(title: str, rows: list[tuple[str, Shape, Shape, str]]) -> None:
    """Print measurements: name of the row, shape, objects along each axis, kind."""
    print(
        f"\n{title}\n\n| | objects | seconds | processor s | peak MiB | files MiB |\n|---|---|---|---|---|---|",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as scratch:
        for name, shape, objects, kind in rows:
            path = Path(scratch) / f"{'x'.join(map(str, shape))}.tif"
            if not path.exists():
                write_lattice(path, shape, objects)
            seen = apart(kind, path)
            print(
                f"| {name} | {seen['objects']:,} | {seen['seconds']:.1f} | {seen['busy']:.1f} | {seen['peak_mib']:.0f} "
                f"| {seen['written_mib']:.0f} |",
                flush=True,
            )


def speed() -> None:
    shape, objects = SPEED
    table(
        f"{' x '.join(map(str, shape))}, {np.prod(objects):,} objects", [(kind, shape, objects, kind) for kind in KINDS]
    )


def depth() -> None:
    rows = [(f"{n} x {SIDE} x {SIDE}", (n, SIDE, SIDE), (n // 5, 25, 25), "instances --split --rois") for n in DEPTHS]
    table("stacks of more slices", rows)


def many() -> None:
    shape, objects = MANY
    kind = "instances --split --rois"
    table(f"{' x '.join(map(str, shape))}, {np.prod(objects):,} objects", [(kind, shape, objects, kind)])


def quality() -> None:
    """Panoptic quality of pairs of solids that touch, several seeds."""
    import io

    from skimage.measure import label

    from tests.support.solids import panoptic_quality, touching_ellipsoids, touching_tubes

    print(
        "\n| solids | voxels | objects | components | their quality | parted | their quality | in the worst of 10 |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for name, shape, size, radius in (("cubes", (96, 160, 160), CUBES, 0.13), ("1:5", (40, 220, 220), SLABS, 0.25)):
        for kind in ("ellipsoids", "shells", "tubes"):
            rows = []
            for seed in range(10):
                if kind == "tubes":
                    true = touching_tubes(shape, size, radius * 0.4, 8, seed)
                else:
                    true = touching_ellipsoids(shape, size, radius, 10, seed, hollow=0.4 if kind == "shells" else 0.0)
                joined = label(true > 0, connectivity=1)
                parted = split_instances(lambda z, of=true: of[z] > 0, len(true), size, io.BytesIO())
                found = np.stack([*parted.slices()])
                rows.append(
                    (
                        true.max(), joined.max(), panoptic_quality(true, joined),
                        len(parted), panoptic_quality(true, found),
                    )
                )  # fmt: skip
            n, n_joined, before, n_parted, after = np.transpose(rows)
            print(
                f"| {kind} | {name} | {n.sum():.0f} | {n_joined.sum():.0f} | {before.mean():.2f} "
                f"| {n_parted.sum():.0f} | {after.mean():.3f} | {after.min():.2f} |",
                flush=True,
            )


def surface() -> None:
    """Of balls around random places: as the tables have it, of a mesh, and of the faces of the voxels."""
    from skimage.measure import marching_cubes, mesh_surface_area

    print("\n| voxels | radius | tables | of the worst | mesh | faces | volume |\n|---|---|---|---|---|---|---|")
    rng = np.random.default_rng(0)
    for name, size in (("cubes", CUBES), ("1:5", SLABS)):
        edges = np.array(size.edges)
        for pixels in (3, 5, 10, 20, 40):
            radius, ratios = pixels * size.x, []
            for _ in range(20):
                shape = np.ceil(2 * radius / edges).astype(int) + 5
                centre = shape * edges / 2 + rng.uniform(-0.5, 0.5, 3) * edges
                axes = [(np.arange(n) + 0.5) * edge - c for n, edge, c in zip(shape, edges, centre, strict=True)]
                z, y, x = np.meshgrid(*axes, indexing="ij")
                ball = (z**2 + y**2 + x**2 <= radius**2).astype(np.uint8)
                sums = ObjectSums(1, ["rest", "ball"], size)
                for plane in ball:
                    sums.add(plane, plane)
                columns = sums.columns()
                vertices, triangles, *_ = marching_cubes(ball, 0.5, spacing=size.edges)
                area_of_face = edges.prod() / edges
                faces = sum(np.count_nonzero(np.diff(ball, axis=k)) * area_of_face[k] for k in range(3))
                sphere, content = 4 * np.pi * radius**2, 4 / 3 * np.pi * radius**3
                ratios.append(
                    (
                        columns["surface_um2"][0] / sphere, mesh_surface_area(vertices, triangles) / sphere,
                        faces / sphere, columns["volume_um3"][0] / content,
                    )
                )  # fmt: skip
            ours, mesh, faces, volume = np.transpose(ratios) - 1
            worst = ours[np.abs(ours).argmax()]
            print(
                f"| {name} | {pixels} | {ours.mean():+.1%} | {worst:+.1%} | {mesh.mean():+.1%} | {faces.mean():+.1%} "
                f"| {volume.mean():+.1%} |",
                flush=True,
            )


TABLES = {"speed": speed, "depth": depth, "many": many, "quality": quality, "surface": surface}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", help=f"{', '.join(TABLES)}; all of them by default")
    for name in ("one", "labels", "folder"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one, Path(options.labels), Path(options.folder))))
        return
    for name in options.tables or TABLES:
        TABLES[name]()


if __name__ == "__main__":
    main()
