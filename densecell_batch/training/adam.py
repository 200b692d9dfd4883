"""Adam as a function of tensors.

Keras has Adam, but its stateless form, which a compiled step over tensors needs, does not exist with the TensorFlow
backend.

References
----------
.. [1] Kingma, Ba 2015, "Adam: a method for stochastic optimization", arXiv:1412.6980; the form before section 2.1, in
   which epsilon is added to the root of the uncorrected second moment, as TensorFlow 1 has it.
.. [2] Loshchilov, Hutter 2019, "Decoupled weight decay regularization", arXiv:1711.05101.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from densecell_batch.nets.build import ops

__all__ = ["PUBLISHED", "Adam"]


@dataclass(frozen=True)
class Adam:
    """Constants of the method."""

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7
    decay: float = 0.0  # decoupled, of kernels, in units of the learning rate

    def step(
        self, weights: list[Any], gradients: list[Any], means: list[Any], squares: list[Any], rate: Any, count: Any
    ) -> tuple[list[Any], list[Any], list[Any]]:
        """One step.

        Parameters
        ----------
        weights, gradients
            Tensors of the same shapes.
        means, squares
            Running averages of the gradients and of their squares, of the same shapes; zeros at first.
        rate
            Learning rate, a scalar.
        count
            Number of this step, from 1, a float scalar.

        Returns
        -------
        weights, means, squares : list
            After the step.
        """
        scale = rate * ops.sqrt(1 - self.beta_2**count) / (1 - self.beta_1**count)
        means = [m + (g - m) * (1 - self.beta_1) for m, g in zip(means, gradients, strict=True)]
        squares = [v + (ops.square(g) - v) * (1 - self.beta_2) for v, g in zip(squares, gradients, strict=True)]
        after = []
        for weight, mean, square in zip(weights, means, squares, strict=True):
            kept = weight * (1 - rate * self.decay) if self.decay and len(weight.shape) > 1 else weight
            after.append(kept - scale * mean / (ops.sqrt(square) + self.epsilon))
        return after, means, squares


PUBLISHED = Adam(beta_1=1 - 10**-1.5, beta_2=1 - 10**-2.1, epsilon=1e-7)  # with a constant learning rate of 1e-3
