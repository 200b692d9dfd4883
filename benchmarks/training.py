"""What our training reaches in so many seconds of the processor, and what a plain 2D U-Net does.

    python benchmarks/training.py FOLDER... --out OUT [--nets ours ours-half peer peer-half] [--seeds 0 1 2]
        [--seconds 300 1440]
    python benchmarks/training.py --out OUT --table

Each FOLDER is a tissue: train-images.tif, train-labels.tif, eval-images.tif, eval-labels.tif, and classes.txt with a
name in each line, if its classes have names. `ours` is `densecell-batch train` with its defaults (but --floor 0),
`ours-half` with --scale 0.5; `peer` is benchmarks/peer_unet.py, which needs PyTorch, `peer-half` the same at half of
the pixels. The seconds are the processor's, of all threads together, for the steps of the training alone, trials of
scales included; start-up and evaluations come on top. Results that are in OUT/results.jsonl are not measured again: a
run that was stopped goes on, and so does the whole table from a copy of benchmarks/results/training.jsonl, on a machine
like that of its rows.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from densecell_batch.io.reading import open_labels
from densecell_batch.measure.metrics import score
from densecell_batch.models.classes import ClassInfo, named_classes, parse_classes
from densecell_batch.training.volumes import LabelledVolume, load_labelled

NETS = ("ours", "ours-half", "peer", "peer-half")
NO_TORCH = (
    "--nets peer and peer-half need PyTorch, which is not installed here; `pip install torch` brings it, or give "
    "--nets ours"
)
Row = dict[str, Any]


@dataclass(frozen=True)
class Tissue:
    """A folder of labelled slices."""

    folder: Path

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.resolve().name

    def pair(self, kind: str) -> tuple[Path, Path]:
        """Images and labels to "train" on, or to evaluate on ("eval")."""
        return self.folder / f"{kind}-images.tif", self.folder / f"{kind}-labels.tif"

    @cached_property
    def classes(self) -> tuple[ClassInfo, ...]:
        """As classes.txt names them, else by their numbers."""
        named = self.folder / "classes.txt"
        if named.exists():
            return parse_classes(str(named))
        with open_labels(self.pair("train")[1]) as labels:
            most = max(int(labels.read(z).max()) for z in range(labels.info.shape[0]))
        return named_classes([f"class {i}" for i in range(most + 1)])

    def volume(self, kind: str) -> LabelledVolume:
        """In memory, prepared as for our training."""
        return load_labelled(*self.pair(kind), len(self.classes))

    def scored(self, labels: np.ndarray) -> Row:
        """How well a class map of the evaluation slices agrees with their labels."""
        truth, counted = self.volume("eval").truth
        found = score(truth, labels, len(self.classes), counted)
        return {
            "mean_iou": found.mean_iou,
            "iou": {c.name: None if np.isnan(v) else float(v) for c, v in zip(self.classes, found.iou, strict=True)},
        }


@dataclass(frozen=True)
class Job:
    """One training."""

    tissue: Tissue
    net: str
    seed: int
    seconds: float

    def folder(self, out: Path) -> Path:
        """Where its weights and probabilities are kept."""
        return out / f"{self.tissue.name}-{self.net}-{self.seconds:g}s-{self.seed}"


def train_ours(job: Job, folder: Path) -> tuple[Row, np.ndarray]:
    """A row, and the probabilities (z, y, x, class) of the evaluation slices."""
    from processor_meter import ProcessorMeter

    import densecell_batch
    from densecell_batch.training.options import TrainingOptions
    from densecell_batch.training.train import train

    (images, labels), evaluation, rows = job.tissue.pair("train"), job.tissue.pair("eval"), []
    scale: Any = 0.5 if job.net == "ours-half" else "auto"
    options = TrainingOptions(minutes=job.seconds / 60, seed=job.seed, floor=0.0, scale=scale)
    with ProcessorMeter() as meter:
        bundle = train(
            [images], [labels], [evaluation], folder, job.tissue.classes, options,
            progress=lambda run, seed, row: rows.append(row),
        )  # fmt: skip
        spent, steps = meter.seconds, meter.steps
    with densecell_batch.open_stack(evaluation[0]) as stack:  # as a training evaluates, on whole stacks
        found = densecell_batch.segment(stack, bundle, probabilities=True, contrast="stack", defects="off", fit="off")
    assert found.probabilities is not None
    reached = bundle.scores["evaluation"]
    row = {
        "mean_iou": reached["mean_iou"],
        "iou": reached["iou"],
        "last_mean_iou": rows[-1]["mean_iou"],
        "steps": rows[-1]["step"],
        "trial_steps": steps - rows[-1]["step"],
        "spent": spent,
        "scale": list(bundle.known.scale),
        "what": repr(bundle.architecture),
    }
    return row, found.probabilities


def train_peer(job: Job, folder: Path) -> tuple[Row, np.ndarray]:
    """The same for the peer."""
    from peer_unet import train
    from safetensors.numpy import save_file

    half, n = job.net == "peer-half", len(job.tissue.classes)
    found = train([job.tissue.volume("train")], job.tissue.volume("eval"), n, job.seconds, job.seed, half)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.numpy() for name, value in found.weights.items()}
    save_file(weights, folder / "weights.safetensors")
    scores = job.tissue.scored(found.probabilities.argmax(-1).astype(np.uint8))
    row = {
        **scores,
        "last_mean_iou": scores["mean_iou"],
        "steps": found.steps,
        "trial_steps": 0,
        "spent": found.seconds,
        "scale": [1.0, 0.5, 0.5] if half else [1.0, 1.0, 1.0],
        "what": f"2D U-Net, {sum(value.size for value in weights.values()):,} parameters, {found.precision}",
    }
    return row, found.probabilities


def carry_out(job: Job, out: Path) -> Row:
    """Train in this process; weights and probabilities are kept."""
    folder = job.folder(out)
    if folder.exists():  # of a run that was stopped: its seconds were not all metered
        shutil.rmtree(folder)
    row, probabilities = (train_ours if job.net.startswith("ours") else train_peer)(job, folder)
    np.save(folder / "probabilities.npy", probabilities.astype(np.float16))
    return {"tissue": job.tissue.name, "net": job.net, "seeds": [job.seed], "seconds": job.seconds, **row}


def in_process(job: Job, out: Path) -> Row:
    """The row of a job that is carried out in a process of its own, whose processor time is that of the job."""
    words = [str(job.tissue.folder), job.net, str(job.seed), str(job.seconds)]
    log = out / f"{job.folder(out).name}.log"
    # Threads that spin while they wait would count as work, and the more so the busier the machine is.
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    with log.open("w") as stream:
        done = subprocess.run(
            [sys.executable, __file__, "--out", str(out), "--job", *words],
            stdout=subprocess.PIPE, stderr=stream, text=True, check=False, env=environment,
        )  # fmt: skip
    if done.returncode:
        sys.exit(f"{job.folder(out).name} failed with exit code {done.returncode}; {log} says why")
    return json.loads(done.stdout.splitlines()[-1])


def results(out: Path) -> list[Row]:
    """What was measured so far."""
    path = out / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def known(out: Path, tissue: str, net: str, seeds: list[int], seconds: float) -> bool:
    """Whether there is a row."""
    wanted = [tissue, net, seeds, seconds]
    return any([row["tissue"], row["net"], row["seeds"], row["seconds"]] == wanted for row in results(out))


def keep(out: Path, row: Row) -> None:
    """Append a row, and say what came of it."""
    with (out / "results.jsonl").open("a") as stream:
        stream.write(json.dumps(row) + "\n")
    seeds = "+".join(map(str, row["seeds"]))
    what = f"{row['tissue']}, {row['net']}, {row['seconds']:g} s, seed {seeds}"
    print(f"{what}: mean IoU {row['mean_iou']:.3f}", file=sys.stderr, flush=True)


def together(tissue: Tissue, net: str, seeds: list[int], seconds: float, out: Path) -> Row:
    """A row of the mean of the probabilities of several seeds."""
    folders = [Job(tissue, net, seed, seconds).folder(out) for seed in seeds]
    total = sum(np.load(folder / "probabilities.npy").astype(np.float32) for folder in folders)
    assert isinstance(total, np.ndarray)
    scores = tissue.scored(total.argmax(-1).astype(np.uint8))
    return {"tissue": tissue.name, "net": net, "seeds": seeds, "seconds": seconds, **scores}


def measure(options: argparse.Namespace) -> None:
    """All that is not measured yet."""
    options.out.mkdir(parents=True, exist_ok=True)
    tissues = [Tissue(folder) for folder in options.folders]
    for seconds in options.seconds:
        for tissue in tissues:
            for net in options.nets:
                for seed in options.seeds:
                    if not known(options.out, tissue.name, net, [seed], seconds):
                        keep(options.out, in_process(Job(tissue, net, seed, seconds), options.out))
                several = len(options.seeds) > 1
                if several and not known(options.out, tissue.name, net, options.seeds, seconds):
                    keep(options.out, together(tissue, net, options.seeds, seconds, options.out))


def spread(values: list[float | None], digits: int = 3) -> str:
    """Mean and standard deviation."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return ""
    around = f" ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):.{digits}f}{around}"


def line(rows: list[Row], classes: list[str]) -> list[str]:
    """A line of the table: single seeds of a net and a budget, or one ensemble of them."""
    first = rows[0]
    ensemble = len(first["seeds"]) > 1
    seeds = f"{len(first['seeds'])} together" if ensemble else str(len(rows))
    cells = [f"{first['seconds']:g}", first["net"], seeds, spread([row["mean_iou"] for row in rows])]
    cells.append("" if ensemble else spread([row["last_mean_iou"] for row in rows]))
    cells += [spread([row["iou"].get(name) for row in rows]) for name in classes]
    if ensemble:
        return [*cells, "", "", ""]
    scales = sorted({f"{row['scale'][1]:g}" for row in rows})
    steps = [f"{spread([row[kind] for row in rows], 0)}" for kind in ("steps", "spent")]
    return [*cells, ", ".join(scales), *steps]


def table(out: Path) -> str:
    """A table in Markdown for each tissue."""
    tissues: dict[str, dict[tuple[float, str, int], list[Row]]] = {}
    for row in results(out):
        ensemble = len(row["seeds"]) if len(row["seeds"]) > 1 else 0
        tissues.setdefault(row["tissue"], {}).setdefault((row["seconds"], row["net"], ensemble), []).append(row)
    parts = []
    for tissue, groups in sorted(tissues.items()):
        classes = list(next(iter(groups.values()))[0]["iou"])
        heads = ["seconds", "net", "seeds", "mean IoU", "of the last step", *classes, "scale", "steps", "seconds used"]
        lines = [heads, ["---"] * len(heads), *(line(rows, classes) for _, rows in sorted(groups.items()))]
        parts.append(f"### {tissue}\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in lines))
    return "\n\n".join(parts)


def main() -> None:
    """Measure what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*", metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=["ours", "peer", "peer-half"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--seconds", nargs="+", type=float, default=[300.0, 1440.0])
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--job", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        folder, net, seed, seconds = options.job
        print(json.dumps(carry_out(Job(Tissue(Path(folder)), net, int(seed), float(seconds)), options.out)))
        return
    if not options.table:
        if not options.folders:
            parser.error("give a FOLDER of labelled slices, or --table")
        if any(net.startswith("peer") for net in options.nets) and importlib.util.find_spec("torch") is None:
            parser.error(NO_TORCH)
        measure(options)
    print(table(options.out))


if __name__ == "__main__":
    main()
