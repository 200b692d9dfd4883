"""How a member is trained: what a step minimizes, from which weights, at which rate, on which windows.

All fields of a recipe decide the result; none may change when a run is resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from densecell_batch.nets.architecture import Architecture, UNet2D
from densecell_batch.training.error_weights import error_weights
from densecell_batch.training.published_windows import PublishedSampler
from densecell_batch.training.volumes import LabelledVolume
from densecell_batch.training.windows import Augmentation, Batch, Sampler

__all__ = ["Improved", "Published", "Recipe"]

Loss = Callable[[Any, Any, list[Any], Mapping[str, Any]], Any]  # (labels, weights, outputs, tensors by canonical name)


class BatchSource(Protocol):
    """Draws the batch of a step."""

    @property
    def epoch(self) -> int:
        """Steps in which the volumes are seen once."""

    def __call__(self, step: int) -> Batch: ...


@dataclass(frozen=True)
class Recipe:
    """What all recipes have."""

    preset: ClassVar[str]

    window: tuple[int, int, int] = (5, 160, 160)  # input (z, y, x)
    steps: int = 3000
    evaluate_every: int = 150  # steps
    learning_rate: float = 1e-3
    precision: str = "float32"  # or "mixed_bfloat16"
    normalized: bool = False  # batch normalization after the convolutions, folded into them in the end
    average: float = 0.0  # share of the running average of the weights that a step keeps
    floor: float = 0.3  # mean IoU below which a member is abandoned once it had its trial

    def over(self, steps: int) -> Self:
        """The same over another number of steps, evaluated about twenty times."""
        return replace(self, steps=steps, evaluate_every=-(-steps // 20))

    @property
    def inference_precision(self) -> str:
        """What the evaluation computes in."""
        return self.precision.removeprefix("mixed_")

    def trial(self, epoch: int) -> int:
        """Steps after which a member must be above the floor; an epoch has `epoch` steps."""
        return -(-self.steps // 2)

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        return self.learning_rate

    def adam(self) -> Any:
        """The optimizer."""
        raise NotImplementedError

    def draw_kernel(self, rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
        """First kernel of a layer.

        Parameters
        ----------
        rng
            To draw with.
        shape
            (..., in, out) of a convolution, (..., out, in) of a transposed one.
        kind
            "conv", which a ReLU follows, "upsample" (transposed) or "predictor".
        """
        raise NotImplementedError

    def sampler(self, train: list[LabelledVolume], architecture: Architecture, seed: int) -> BatchSource:
        """Of the windows."""
        raise NotImplementedError

    def plain_sampler(self, train: list[LabelledVolume], architecture: Architecture, seed: int) -> BatchSource:
        """Of windows such as stacks have that are segmented: the statistics of the normalizations are taken of them."""
        return self.sampler(train, architecture, seed)

    def loss(self) -> Loss:
        """What a step minimizes."""
        raise NotImplementedError


@dataclass(frozen=True)
class Improved(Recipe):
    """What trains better in the same time; each choice is measured in docs/design/0004-training.md."""

    preset = "improved"

    learning_rate: float = 3e-3  # at its highest
    normalized: bool = True
    average: float = 0.998
    batch: int = 1
    warm_up: int = 100  # steps of rising learning rate; then it falls along half a cosine to 0
    weight_decay: float = 1e-4
    dice: float = 0.5  # weight of the Dice loss beside the cross-entropy
    rare: float = 0.33  # share of windows about a voxel of a class drawn first
    augmentation: Augmentation = field(default_factory=Augmentation)

    def over(self, steps: int) -> Self:
        """The same over another number of steps."""
        return replace(super().over(steps), warm_up=max(1, min(self.warm_up, steps // 10)))

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        rise = min(1.0, (step + 1) / self.warm_up)
        return self.learning_rate * rise * 0.5 * (1 + float(np.cos(np.pi * step / self.steps)))

    def adam(self) -> Any:
        """Adam with decoupled weight decay."""
        from densecell_batch.training.adam import Adam

        return Adam(decay=self.weight_decay)

    def draw_kernel(self, rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
        """Normal, so that the variance of the features stays as it is from layer to layer (He et al. 2015,
        arXiv:1502.01852): 2 / fan-in of what is convolved before a ReLU, 1 / fan-in elsewhere.
        """
        # The kernel of a transposed convolution is its stride: an output voxel has one tap a channel.
        fan_in = shape[-1] if kind == "upsample" else np.prod(shape[:-1])
        kernel: np.ndarray = rng.standard_normal(shape) * np.sqrt((2 if kind == "conv" else 1) / fan_in)
        return kernel

    def sampler(self, train: list[LabelledVolume], architecture: Architecture, seed: int) -> BatchSource:
        """Windows from anywhere, rare classes more often."""
        return self._sampler(train, architecture, seed, self.augmentation, self.rare)

    def plain_sampler(self, train: list[LabelledVolume], architecture: Architecture, seed: int) -> BatchSource:
        """Windows from anywhere, not varied: rare classes more often, noise and blur would shift what nets expect."""
        return self._sampler(train, architecture, seed, None, 0.0)

    def _sampler(
        self,
        train: list[LabelledVolume],
        architecture: Architecture,
        seed: int,
        augmentation: Augmentation | None,
        rare: float,
    ) -> BatchSource:
        return Sampler(
            train,
            self.window,
            self.batch,
            architecture.n_classes,
            augmentation=augmentation,
            rare=rare,
            context=architecture.context,
            seed=seed,
        )

    def loss(self) -> Loss:
        """Cross-entropy and Dice, mean over the voxels."""
        from densecell_batch.training.losses import improved_loss

        return lambda labels, weights, outputs, tensors: improved_loss(labels, weights, outputs, self.dice)


@dataclass(frozen=True)
class Published(Recipe):
    """The recipe of Guay et al. 2021 and of the published code."""

    preset = "published"

    spacing: tuple[int, int, int] = (2, 100, 100)  # sides of the bins that the corners of the windows are drawn in

    def trial(self, epoch: int) -> int:
        """Steps after which a member must be above the floor: ten epochs."""
        return 10 * epoch

    @classmethod
    def of(cls, architecture: Architecture, **fields: Any) -> Published:
        """With the learning rate that the published code has for a kind of net."""
        rate = 10**-3.3 if isinstance(architecture, UNet2D) else 1e-3
        return cls(**{"learning_rate": rate, **fields})

    def adam(self) -> Any:
        """Adam with the published constants."""
        from densecell_batch.training.adam import PUBLISHED

        return PUBLISHED

    def draw_kernel(self, rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
        """Glorot-uniform."""
        limit = np.sqrt(6 / (np.prod(shape[:-2]) * (shape[-1] + shape[-2])))
        return rng.uniform(-limit, limit, shape)

    def sampler(self, train: list[LabelledVolume], architecture: Architecture, seed: int) -> BatchSource:
        """Epochs of windows from bins, of volumes that are bent anew for each; with error weights."""
        weighted = [v if v.weights is not None else replace(v, weights=error_weights(v.labels)) for v in train]
        output: Any = architecture.output_shape(self.window)
        return PublishedSampler(weighted, self.window, output, spacing=self.spacing, seed=seed)

    def loss(self) -> Loss:
        """Sums over the voxels, the 2D predictor's times 0.33, and L2 terms."""
        from densecell_batch.training.losses import published_loss, published_penalty

        def total(labels: Any, weights: Any, outputs: list[Any], tensors: Mapping[str, Any]) -> Any:
            deciding, other = published_loss(labels, weights, outputs)
            return deciding + 0.33 * other + published_penalty(tensors, weights)

        return total
