"""How fast a training step is, against Keras' own `fit` of the same net.

    python benchmarks/training_step.py [--kernels 16] [--steps 5] [--rounds 7]

Both train the same net on windows of 5 x 160 x 160, the same number a step, in the same process, a few steps each in
turn; medians of the rounds. `fit` with keras.optimizers.Adam and the same loss, on windows that are ready in memory.
Ours draws and augments its windows beside the steps and keeps the average of the weights.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import numpy as np


def phantom(shape=(10, 512, 512), n_classes=5):
    """A labelled volume of noise and blocks."""
    from densecell_batch.training.volumes import LabelledVolume

    rng = np.random.default_rng(0)
    labels = rng.integers(0, n_classes, (shape[0], shape[1] // 32, shape[2] // 32)).repeat(32, 1).repeat(32, 2)
    image = (labels - 2 + rng.standard_normal(shape)).astype(np.float32)
    return LabelledVolume(image, labels.astype(np.uint8), None, ("", ""))


def ours(architecture, recipe, volume):
    """A function that takes so many steps of `fit_member`, reading windows included; seconds a step."""
    from densecell_batch.nets.build import build_net
    from densecell_batch.training import fit

    net = build_net(architecture, recipe.window, recipe.precision, normalized=recipe.normalized)
    step = fit._compiled_step(net, recipe)
    state, sampler = fit._fresh(net), recipe.sampler([volume], architecture, 0)

    def steps(count: int) -> float:
        with ThreadPoolExecutor(1) as reader:
            upcoming = reader.submit(sampler, state.step)
            start = time.perf_counter()
            for _ in range(count):
                batch = upcoming.result()
                upcoming = reader.submit(sampler, state.step + 1)
                fit._advance(state, step, recipe, batch)
            return (time.perf_counter() - start) / count

    return steps


def keras_fit(architecture, recipe, volume):
    """The same for Keras' `fit`."""
    import keras

    from densecell_batch.nets.build import build_net
    from densecell_batch.training.losses import improved_loss

    net = build_net(architecture, recipe.window, recipe.precision, normalized=recipe.normalized)
    both = keras.Model(net.input, keras.ops.concatenate(net.outputs, axis=-1))
    n = architecture.n_classes

    def loss(labels, logits):
        labels = keras.ops.cast(labels, "int32")
        weights = keras.ops.ones(labels.shape, "float32")
        return improved_loss(labels, weights, [logits[..., :n], logits[..., n:]], recipe.dice)

    both.compile(keras.optimizers.Adam(recipe.learning_rate), loss)
    sampler = recipe.sampler([volume], architecture, 0)
    batches = [sampler(i) for i in range(8)]
    images, labels, _ = (np.concatenate(parts) for parts in zip(*batches, strict=True))

    def steps(count: int) -> float:
        repeated = np.arange(count * recipe.batch) % len(images)
        start = time.perf_counter()
        both.fit(images[repeated], labels[repeated], batch_size=recipe.batch, verbose=0)
        return (time.perf_counter() - start) / count

    return steps


def main() -> None:
    """Measure both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kernels", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()

    from densecell_batch.nets.architecture import Hybrid2D3D
    from densecell_batch.training.recipes import Improved

    volume = phantom()
    architecture = Hybrid2D3D(5, options.kernels, pyramid_kernels=12, relu_on_logits=False, pyramid_unpools_z=False)
    print(f"{'precision':<16}{'windows':>8}{'normalized':>12}{'ours s/step':>13}{'fit s/step':>12}{'fit / ours':>12}")
    for precision in ("mixed_bfloat16", "float32"):
        for batch, normalized in ((1, True), (2, True), (2, False)):
            recipe = Improved(batch=batch, precision=precision, normalized=normalized)
            ways = ours(architecture, recipe, volume), keras_fit(architecture, recipe, volume)
            for way in ways:
                way(3)
            times = [[way(options.steps) for way in ways] for _ in range(options.rounds)]
            mine, theirs = (median(column) for column in zip(*times, strict=True))
            what = f"{precision:<16}{batch:>8}{normalized!s:>12}"
            print(f"{what}{mine:>13.3f}{theirs:>12.3f}{theirs / mine:>12.2f}", flush=True)


if __name__ == "__main__":
    main()
