"""A plain 2D U-Net in PyTorch, in the manner of nnU-Net [1]_: what `benchmarks/training.py` holds our training against.

Slices alone: six scales of 32 to 288 filters, two convolutions a scale with instance norm and leaky ReLU, strided
convolutions down, transposed ones up, a loss at the three finest scales (cross-entropy and Dice), AdamW along a cosine,
a running average of the weights. Windows of 256 x 256, two a step, a third of them about a voxel of a class that is
drawn first; flipped, turned, and with other grey values. It knows nothing of this package but its labelled volumes.

References
----------
.. [1] Isensee et al. 2021, "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation",
   Nat Methods 18:203. Ours has no resampling, no mirroring at inference, and a cosine in place of its polynomial.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from densecell_batch.training.rescaled import classes_at
from densecell_batch.training.volumes import LabelledVolume

FILTERS = (32, 64, 128, 256, 288, 288)
SIDE, BATCH = 256, 2
DEEP = 3  # scales that have a loss
RATE, WARM_UP, DECAY, AVERAGE = 1e-3, 0.05, 1e-2, 0.998
RARE = 1 / 3  # share of windows about a voxel of a class that is drawn first
IGNORED = 255
_PACED = 16  # steps that tell how long one takes; the first half does not count
_MULTIPLE = 2 ** (len(FILTERS) - 1)


@dataclass(frozen=True)
class Trained:
    """What came of a training."""

    probabilities: np.ndarray  # (z, y, x, class) float32, of the evaluation volume
    steps: int
    seconds: float  # of the processor, in the steps
    precision: str
    weights: dict[str, torch.Tensor]  # averaged


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Two convolutions; the first one with a stride."""
    layers: list[nn.Module] = []
    for first, step in ((inputs, stride), (outputs, 1)):
        layers.append(nn.Conv2d(first, outputs, 3, step, 1, bias=False))
        layers.append(nn.GroupNorm(outputs, outputs))  # a group for each filter is instance norm, and faster here
        layers.append(nn.LeakyReLU(0.01, inplace=True))
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """(n, 1, y, x) -> logits (n, class, y, x), and those at half, a quarter, ... of the sides."""

    def __init__(self, n_classes: int, filters: Sequence[int] = FILTERS) -> None:
        super().__init__()
        pairs = list(pairwise(filters))
        self.first = block(1, filters[0])
        self.down = nn.ModuleList(block(a, b, 2) for a, b in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in pairs)
        self.join = nn.ModuleList(block(2 * a, a) for a, _ in pairs)
        self.predict = nn.ModuleList(nn.Conv2d(a, n_classes, 1) for a in filters[:DEEP])
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, 0.01)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The finest logits first."""
        found = [self.first(images)]
        for down in self.down:
            found.append(down(found[-1]))
        features, logits = found[-1], []
        for i in reversed(range(len(self.down))):
            features = self.join[i](torch.cat([found[i], self.up[i](features)], 1))
            if i < DEEP:
                logits.append(self.predict[i](features))
        return logits[::-1]


def loss_of(logits: list[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy and Dice at each scale, which weighs half of the finer one; labels (n, y, x) int64."""
    total = torch.zeros(())
    for i, each in enumerate(logits):
        truth = labels[:, :: 2**i, :: 2**i]
        counted = truth != IGNORED
        if not counted.any():
            continue
        each = each.float()
        entropy = functional.cross_entropy(each, truth, ignore_index=IGNORED)
        there = functional.one_hot(truth * counted, each.shape[1]).movedim(-1, 1) * counted[:, None]
        share = each.softmax(1) * counted[:, None]
        both, sum_there, sum_share = ((a).sum((0, 2, 3)) for a in (there * share, there, share))
        dice = (2 * both / (sum_there + sum_share).clamp_min(1e-6))[sum_there > 0].mean()
        total = total + (entropy + 1 - dice) / 2**i
    return total / sum(2.0**-i for i in range(len(logits)))


def halved(volume: LabelledVolume, n_classes: int) -> LabelledVolume:
    """At half of the voxels along y and x: grey values averaged over 2 x 2, the class that most of them have."""
    odd = [(0, side % 2) for side in volume.image.shape[1:]]
    image = np.pad(volume.image, [(0, 0), *odd], mode="edge")
    labels = np.pad(volume.labels, [(0, 0), *odd], mode="edge")
    counted = None if volume.counted is None else np.pad(volume.counted, [(0, 0), *odd])
    depth, height, width = image.shape
    parts = depth, height // 2, 2, width // 2, 2
    weights = None if counted is None else (counted.reshape(parts).mean((2, 4)) >= 0.5).astype(np.float32)
    few = classes_at(labels, (depth, height // 2, width // 2), n_classes, counted)
    return replace(volume, image=image.reshape(parts).mean((2, 4)), labels=few, weights=weights)


class Windows:
    """Draws batches: (n, 1, side, side) float32 and labels (n, side, side) int64, 255 where a voxel does not count."""

    def __init__(self, volumes: Sequence[LabelledVolume], n_classes: int, seed: int) -> None:
        self._planes = [plane for volume in volumes for plane in volume.image]
        self._labels = [
            np.where(True if volume.counted is None else volume.counted[z], labels, IGNORED).astype(np.uint8)
            for volume in volumes
            for z, labels in enumerate(volume.labels)
        ]
        everywhere = [[np.flatnonzero(labels == c) for c in range(n_classes)] for labels in self._labels]
        self._holding = [[i for i, places in enumerate(everywhere) if len(places[c])] for c in range(n_classes)]
        self._classes = [c for c in range(n_classes) if self._holding[c]]
        self._everywhere = everywhere
        self._random = np.random.default_rng(seed)
        least = min(min(plane.shape) for plane in self._planes)
        if least < _MULTIPLE:
            raise SystemExit(f"a slice is {least} voxels wide; the peer needs {_MULTIPLE}")
        self._side = min(SIDE, least // _MULTIPLE * _MULTIPLE)

    def __call__(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The next batch."""
        images, labels = zip(*(self._one() for _ in range(BATCH)), strict=True)
        return torch.from_numpy(np.stack(images))[:, None], torch.from_numpy(np.stack(labels))

    def _one(self) -> tuple[np.ndarray, np.ndarray]:
        random, side = self._random, self._side
        if random.random() < RARE:
            c = random.choice(self._classes)
            which = int(random.choice(self._holding[c]))
            place = int(random.choice(self._everywhere[which][c]))
        else:
            which = int(random.integers(len(self._planes)))
            place = int(random.integers(self._planes[which].size))
        shape = self._planes[which].shape
        middle = np.array(np.unravel_index(place, shape)) + random.integers(-side // 4, side // 4 + 1, 2)
        y, x = (int(np.clip(m - side // 2, 0, length - side)) for m, length in zip(middle, shape, strict=True))
        image = self._planes[which][y : y + side, x : x + side]
        labels = self._labels[which][y : y + side, x : x + side]
        turns, mirrored = int(random.integers(4)), random.random() < 0.5
        image, labels = (np.rot90(a[::-1] if mirrored else a, turns) for a in (image, labels))
        image = image * random.uniform(0.8, 1.2) + random.uniform(-0.2, 0.2)
        image = image + random.uniform(0, 0.1) * random.standard_normal(image.shape, np.float32)
        return image.astype(np.float32), labels.astype(np.int64)


class _Course:
    """A net on its way through a number of steps."""

    def __init__(self, windows: Windows, n_classes: int, steps: int, seed: int, precision: str) -> None:
        torch.manual_seed(seed)
        self.net = UNet(n_classes)
        self.averaged = [p.detach().clone() for p in self.net.parameters()]
        self._windows, self._steps, self._precision, self._step = windows, steps, precision, 0
        flat = [p for p in self.net.parameters() if p.ndim < 2]
        kernels = [p for p in self.net.parameters() if p.ndim >= 2]
        self._adam = torch.optim.AdamW(
            [{"params": kernels}, {"params": flat, "weight_decay": 0.0}], RATE, weight_decay=DECAY
        )

    def step(self) -> None:
        """Draw a batch and learn of it."""
        done = self._step / self._steps
        rise = min(1.0, (self._step + 1) / max(1.0, WARM_UP * self._steps))
        for group in self._adam.param_groups:
            group["lr"] = RATE * rise * 0.5 * (1 + np.cos(np.pi * done))
        images, labels = self._windows()
        with autocast(self._precision):
            logits = self.net(images)
        loss = loss_of(logits, labels)
        self._adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 12.0)
        self._adam.step()
        keep = min(AVERAGE, (1 + self._step) / (10 + self._step))  # what is left of the first weights is soon gone
        with torch.no_grad():
            for mean, now in zip(self.averaged, self.net.parameters(), strict=True):
                mean.lerp_(now, 1 - keep)
        self._step += 1

    def finished(self) -> UNet:
        """The net with the averaged weights."""
        with torch.no_grad():
            for now, mean in zip(self.net.parameters(), self.averaged, strict=True):
                now.copy_(mean)
        return self.net.eval()


def autocast(precision: str) -> torch.autocast:
    """Within it, convolutions are computed in this precision."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")


def pace(course: Callable[[str, int], _Course]) -> tuple[str, float]:
    """The faster precision, and the processor's seconds of a step in it, of nets that are thrown away."""

    def seconds(precision: str, steps: int) -> float:
        trial, times = course(precision, steps), []
        for _ in range(steps):
            start = time.process_time()
            trial.step()
            times.append(time.process_time() - start)
        return float(np.median(times[steps // 2 :]))

    precision = min(("bfloat16", "float32"), key=lambda name: seconds(name, 3))
    return precision, seconds(precision, _PACED)


def predict(net: UNet, image: np.ndarray, n_classes: int, precision: str) -> np.ndarray:
    """Probabilities (class, z, y, x) of a volume, of windows that overlap by half and count most in their middle."""
    height, width = image.shape[1:]
    side = [min(SIDE, -(-length // _MULTIPLE) * _MULTIPLE) for length in (height, width)]
    padded = np.pad(image, [(0, 0), (0, max(0, side[0] - height)), (0, max(0, side[1] - width))], mode="symmetric")
    found = np.zeros((n_classes, *padded.shape), np.float32)
    total = np.zeros(padded.shape[1:], np.float32)
    weight = np.outer(*(np.hanning(length + 2)[1:-1] + 1e-3 for length in side)).astype(np.float32)
    for y in starts(padded.shape[1], side[0]):
        for x in starts(padded.shape[2], side[1]):
            place = slice(y, y + side[0]), slice(x, x + side[1])
            total[place] += weight
            for z, plane in enumerate(padded):
                window = torch.from_numpy(np.ascontiguousarray(plane[place]))[None, None]
                with torch.inference_mode(), autocast(precision):
                    logits = net(window)[0]
                found[(slice(None), z, *place)] += weight * logits[0].float().softmax(0).numpy()
    return (found / total)[:, :, :height, :width]


def starts(length: int, side: int) -> list[int]:
    """Where windows begin that cover a length and overlap by half."""
    count = max(1, -(-2 * (length - side) // side) + 1)
    return sorted({int(start) for start in np.linspace(0, length - side, count)})


def train(
    volumes: Sequence[LabelledVolume], evaluation: LabelledVolume, n_classes: int, seconds: float, seed: int, half: bool
) -> Trained:
    """Train for so many seconds of the processor, and look at the evaluation volume.

    Parameters
    ----------
    volumes
        To train on; what does not count is ignored.
    evaluation
        Only its image is used.
    n_classes
        Classes.
    seconds
        Of the processor, of all threads together, for the steps alone; they are planned by measuring some.
    seed
        Of weights and windows.
    half
        Whether the net sees half of the voxels along y and x; what it says is brought back.
    """
    seen = [halved(volume, n_classes) for volume in volumes] if half else volumes
    precision, each = pace(lambda name, steps: _Course(Windows(seen, n_classes, seed), n_classes, steps, seed, name))
    steps = max(1, round(seconds / each))
    course = _Course(Windows(seen, n_classes, seed), n_classes, steps, seed, precision)
    begun = time.process_time()
    for _ in range(steps):
        course.step()
    spent = time.process_time() - begun
    net = course.finished()
    image = halved(evaluation, n_classes).image if half else evaluation.image
    found = predict(net, image, n_classes, precision)
    if half:
        height, width = evaluation.image.shape[1:]
        planes = torch.from_numpy(found).movedim(1, 0)
        back = functional.interpolate(planes, scale_factor=2, mode="bilinear", align_corners=False)
        found = back.movedim(0, 1).numpy()[:, :, :height, :width]
    return Trained(np.moveaxis(found, 0, -1), steps, spent, precision, net.state_dict())
