"""Nets that nobody trained."""

import numpy as np

from densecell_batch.nets.architecture import Architecture, tensor_shapes

_RNG = np.random.default_rng(0)


def random_member(architecture: Architecture) -> dict[str, np.ndarray]:
    """Kernels as Glorot and Bengio draw them, other ones each time; biases of 0."""
    member = {}
    for name, shape in tensor_shapes(architecture).items():
        limit = 0 if name.endswith("bias") else np.sqrt(6 / (np.prod(shape[:-2]) * (shape[-1] + shape[-2])))
        member[name] = _RNG.uniform(-limit, limit, shape).astype(np.float32)
    return member
