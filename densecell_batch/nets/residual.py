"""The residual U-Net as a configuration: names, shapes and geometry, without TensorFlow.

A slice enters with its neighbours as channels, and from there on all is 2D. A first convolution of stride 2 halves the
resolution, so that most is computed at a quarter of the voxels: the net sees 217 voxels to each side for half the
operations of a 2D-3D net of 16 kernels, which sees 68.

References
----------
.. [1] He, Zhang, Ren, Sun 2016, "Deep residual learning for image recognition", arXiv:1512.03385.
.. [2] Isensee et al. 2021, "nnU-Net", Nat Methods 18:203: strided convolutions, filters that are doubled up to 320.
.. [3] Lee et al. 2017, "Superhuman accuracy on the SNEMI3D connectomics challenge", arXiv:1706.00120: skips that are
   added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from densecell_batch.errors import OptionError
from densecell_batch.nets.description import Layer, Shape, check_fields, short

__all__ = ["ResidualUNet"]

_MOST_NEIGHBOURS = 8


@dataclass(frozen=True)
class ResidualUNet:
    """A 2D U-Net of residual blocks over slices with their neighbours.

    Raises
    ------
    OptionError
        If a field is outside its domain.
    """

    n_classes: int
    n_kernels: int = 32  # filters of the first block, at half the resolution; doubled in each following one
    n_blocks: int = 4  # encoder blocks; the bottleneck is one more
    most_kernels: int = 320  # filters of a block, at most
    neighbours: int = 1  # slices at each side that enter with a slice

    family: ClassVar[str] = "residual"

    def __post_init__(self) -> None:
        check_fields(self, ("n_classes", "n_kernels", "n_blocks", "most_kernels"))
        n = self.neighbours
        if not isinstance(n, int) or isinstance(n, bool) or not 0 <= n <= _MOST_NEIGHBOURS:
            raise OptionError(
                f"residual: neighbours is {short(n)}; expected a whole number from 0 to {_MOST_NEIGHBOURS}"
            )

    def kernels(self, block: int) -> int:
        """Filters of a block."""
        return min(self.n_kernels * 2**block, self.most_kernels)

    @property
    def alignment(self) -> int:
        """Tiles whose corners differ by multiples of this are strided over alike."""
        return int(2 ** (self.n_blocks + 1))

    @property
    def fixed_depth(self) -> bool:
        """Slices are independent, but for their neighbours: any number of them can be a tile."""
        return False

    @property
    def context(self) -> int:
        """Slices at each end of an input that give none of the output."""
        return self.neighbours

    @property
    def reach(self) -> tuple[int, int, int]:
        """Distance (z, y, x) in voxels beyond which nothing influences an output voxel; an upper bound."""
        # A convolution of stride 2 sees two voxels of its input to one side; an upsampled voxel is one of two.
        down = sum(2 * 2**s for s in range(self.n_blocks + 1))
        blocks = sum(2**s for s in range(1, self.n_blocks + 2)) + 2
        back = sum(2 * 2**s for s in range(1, self.n_blocks + 1))
        up = sum(2**s for s in range(self.n_blocks + 1))
        yx = down + blocks + back + up
        return (self.neighbours, yx, yx)

    @property
    def halo(self) -> int:
        """Voxels at each side of an output region, in y and x, that do not have their whole context in the input."""
        return self.reach[1]

    @property
    def margin(self) -> int:
        """Voxels lost at each side in y and x: padded convolutions lose none."""
        return 0

    @property
    def any_side(self) -> bool:
        """Whether no side of an input loses voxels: strides count from its first voxel, and what is too much is cut."""
        return True

    @property
    def residue(self) -> int:
        """Output sides that lose no voxel to strides are this much above a multiple of `alignment`, among others."""
        return 0

    def output_shape(self, shape: Shape) -> Shape:
        """Spatial output shape (z, y, x) of an input of spatial `shape`; a depth below 1 means that it is too flat."""
        z, y, x = shape
        return (z - 2 * self.neighbours, y, x)

    def layers(self) -> list[Layer]:
        """Every layer with tensors, in the order of the flow."""
        found: list[Layer] = []
        c = 2 * self.neighbours + 1
        for b in range(self.n_blocks + 1):
            n, block = self.kernels(b), f"net/encoder/encode_block_{b}"
            found.append(Layer(f"{block}/comp_0/conv", (3, 3), c, n, b + 1))
            for i in range(1, 3 if b == 0 else 2):
                found.append(Layer(f"{block}/comp_{i}/conv", (3, 3), n, n, b + 1))
            c = n
        for b in reversed(range(self.n_blocks)):
            n, block = self.kernels(b), f"net/decoder/decode_block_{b}"
            found.append(Layer(f"{block}/comp_0/forward/upsample_conv", (2, 2), c, n, b + 1, transposed=True))
            for i in (1, 2):
                found.append(Layer(f"{block}/comp_{i}/conv", (3, 3), n, n, b + 1))
            c = n
        found.append(Layer("predictor/forward/upsample_conv", (2, 2), c, c, 0, transposed=True))
        found.append(Layer("predictor/logits", (1, 1), c, self.n_classes, 0))
        return found
