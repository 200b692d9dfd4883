"""The net families as configurations: names, shapes and geometry, without TensorFlow.

A configuration says everything that a bundle must know to check and to build a net: the canonical name and shape of
every tensor, how the output region follows from the input region, and how far a voxel sees. `densecell_batch.nets`
builds the Keras model of a configuration.

References
----------
.. [1] Guay et al. 2021, "Dense cellular segmentation for EM using 2D-3D neural network ensembles", Sci Rep 11:2561.
.. [2] Ronneberger, Fischer, Brox 2015, "U-Net: convolutional networks for biomedical image segmentation", MICCAI.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from math import prod
from typing import Any, ClassVar

from densecell_batch.errors import OptionError
from densecell_batch.nets.description import Layer, Shape, check_fields, short
from densecell_batch.nets.residual import ResidualUNet
from densecell_batch.printable import printable
from densecell_batch.storage.strict_json import JsonObject

__all__ = [
    "Architecture",
    "Hybrid2D3D",
    "Layer",
    "ResidualUNet",
    "UNet2D",
    "architecture_from_dict",
    "architecture_to_dict",
    "flop_per_voxel",
    "forward_bytes",
    "layer_name",
    "live_channels",
    "n_parameters",
    "published",
    "tensor_shapes",
    "too_small",
    "window_problem",
]

_LONGEST_PATH = 64
_MOST_PATHS = 8
_LARGEST_SIDE = 16_384  # of a training window, voxels
_LARGEST_FORWARD = 64 * 2**30  # bytes that a net takes for its training window; the published ones take 0.7e9


@dataclass(frozen=True)
class Hybrid2D3D:
    """The 2D-3D+3x3x3 net: a 2D encoder-decoder with 3x3x3 convolutions where each block at full or half resolution
    begins, then a 3D spatial pyramid over its features (ref. 1, Fig. 2 and Methods).

    Raises
    ------
    OptionError
        If a field is outside its domain.
    """

    n_classes: int
    n_kernels: int = 64  # filters of the first block; doubled in each following one; even
    n_blocks: int = 3  # encoder blocks; the bottleneck is one more
    n_convs: int = 2  # 1x3x3 convolutions a block
    pyramid_convs: tuple[int, ...] = (3, 5)  # 3x3x3 convs of each pyramid path; path i works at 1 / 2**i in y and x
    pyramid_kernels: int = 64  # filters of pyramid path 0; the published code has 64 whatever n_kernels is
    relu_on_logits: bool = True  # published quirk: both predictors end in a ReLU, so no logit is below 0
    pyramid_unpools_z: bool = True  # published quirk: paths pool (1,2,2), unpool (2,2,2), then crop z to its middle

    family: ClassVar[str] = "2d3d"
    scope: ClassVar[str] = "2D3D"

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("n_classes", "n_kernels", "n_blocks", "n_convs", "pyramid_kernels"),
            ("relu_on_logits", "pyramid_unpools_z"),
        )
        object.__setattr__(self, "pyramid_convs", tuple(self.pyramid_convs))
        convs = self.pyramid_convs
        if not 1 <= len(convs) <= _MOST_PATHS or any(
            not isinstance(n, int) or not 1 <= n <= _LONGEST_PATH for n in convs
        ):
            raise OptionError(
                f"2d3d: pyramid_convs is {short(convs)}; expected 1 to {_MOST_PATHS} whole numbers from 1 to "
                f"{_LONGEST_PATH}"
            )
        if self.n_kernels % 2:
            raise OptionError(f"2d3d: n_kernels is {self.n_kernels}; expected an even number (3x3x3 convs have half)")

    @property
    def alignment(self) -> int:
        """Input sides in y and x that are multiples of this lose no voxel; tiles on this lattice pool alike."""
        return 2 ** max(self.n_blocks, len(self.pyramid_convs) - 1)

    @property
    def fixed_depth(self) -> bool:
        """Whether the net is defined only for the depth (z) of its training window."""
        return self.pyramid_unpools_z and len(self.pyramid_convs) > 1

    @property
    def context(self) -> int:
        """Slices at each end of an input that give none of the output: padded convolutions need none."""
        return 0

    @property
    def reach(self) -> tuple[int, int, int]:
        """Distance (z, y, x) in voxels beyond which nothing influences an output voxel; an upper bound."""
        encoder = sum((self.n_convs + (b < 2)) * 2**b for b in range(self.n_blocks))
        bottleneck = self.n_convs * 2**self.n_blocks
        pools = sum(2**b for b in range(self.n_blocks))
        pyramid = max(n * 2**i + (2**i - 1) for i, n in enumerate(self.pyramid_convs))
        yx = 2 * encoder + bottleneck + pools + pyramid
        z = 2 * sum(b < 2 for b in range(self.n_blocks)) + max(self.pyramid_convs) + self.pyramid_unpools_z
        return (z, yx, yx)

    @property
    def halo(self) -> int:
        """Voxels at each side of an output region, in y and x, that do not have their whole context in the input."""
        return self.reach[1]

    @property
    def margin(self) -> int:
        """Voxels lost at each side in y and x by an input that loses none to pooling: padded convolutions lose none."""
        return 0

    @property
    def any_side(self) -> bool:
        """Whether no side of an input loses voxels: here only those that `residue` says lose none."""
        return False

    @property
    def residue(self) -> int:
        """Output sides that lose no voxel to pooling are this much above a multiple of `alignment`."""
        return 0

    def output_shape(self, shape: Shape) -> Shape:
        """Spatial output shape (z, y, x) of an input of spatial `shape`."""
        z, y, x = shape
        return (z, self._round_trip(y), self._round_trip(x))

    def _round_trip(self, side: int) -> int:
        sides = [side]
        for _ in range(self.n_blocks):
            sides.append(sides[-1] // 2)
        up = sides.pop()
        while sides:
            up = min(2 * up, sides.pop())
        return up if len(self.pyramid_convs) == 1 else min(up, up // self._pyramid_scale * self._pyramid_scale)

    @property
    def _pyramid_scale(self) -> int:
        scale: int = 2 ** (len(self.pyramid_convs) - 1)
        return scale

    def layers(self) -> list[Layer]:
        """Every layer with tensors, in the order of the flow."""
        found: list[Layer] = []

        def conv(name: str, kernel: Shape, c_in: int, c_out: int, scale: int) -> int:
            found.append(Layer(name, kernel, c_in, c_out, scale))
            return c_out

        def up(name: str, kernel: Shape, c_in: int, c_out: int, scale: int) -> int:
            found.append(Layer(name, kernel, c_in, c_out, scale, transposed=True))
            return c_out

        def convs(block: str, c: int, n: int, scale: int) -> int:
            for i in range(self.n_convs):
                c = conv(f"{block}/comp_{i}/conv", (1, 3, 3), c, n, scale)
            return c

        c, skips = 1, []
        for b in range(self.n_blocks):
            n, block = self.n_kernels * 2**b, f"net/encoder/encode_block_{b}"
            if b < 2:
                c = conv(f"{block}/comp_3dinit_{b}/conv", (3, 3, 3), c, n // 2, b)
            c = convs(block, c, n, b)
            skips.append(c)
        b = self.n_blocks
        c = convs(f"net/decoder/decode_block_{b}", c, self.n_kernels * 2**b, b)
        for b in reversed(range(self.n_blocks)):
            n, block = self.n_kernels * 2**b, f"net/decoder/decode_block_{b}"
            if b < 2:
                first = f"{block}/comp_3dinit_{self.n_blocks - b}"
                c = up(f"{first}/forward/upsample_conv", (1, 2, 2), c, n // 2, b)
                c = conv(f"{first}/conv", (3, 3, 3), skips[b] + c, n // 2, b)
            else:
                c = up(f"{block}/comp_0/forward/upsample_conv", (1, 2, 2), c, n, b) + skips[b]
            c = convs(block, c, n, b)
        conv("predictor_2d/logits", (1, 1, 1), c, self.n_classes, 0)
        k = self.pyramid_kernels
        for i, n_convs in enumerate(self.pyramid_convs):
            path, m = f"spatialpyramid/conv_block_{i}", c + self.n_classes
            for j in range(n_convs):
                m = conv(f"{path}/comp_{j}/conv", (3, 3, 3), m, k * 2**i, i)
            if i:
                conv(f"{path}/path_end_{i}/conv", (1, 1, 1), m, k, i)
                factors = (2**i if self.pyramid_unpools_z else 1, 2**i, 2**i)
                up(f"spatialpyramid/path_combine/residual_{i}/upsample_conv", factors, k, k, 0)
        conv("predictor_3d/logits", (1, 1, 1), k, self.n_classes, 0)
        return found


@dataclass(frozen=True)
class UNet2D:
    """The 2D U-Net (ref. 2) with unpadded convolutions, slice by slice.

    Raises
    ------
    OptionError
        If a field is outside its domain.
    """

    n_classes: int
    n_kernels: int = 64  # filters of the first block; doubled in each following one
    n_blocks: int = 4  # encoder blocks; the bottleneck is one more
    n_convs: int = 2  # 3x3 convolutions a block
    relu_on_logits: bool = True  # published quirk: the predictor ends in a ReLU, so no logit is below 0

    family: ClassVar[str] = "unet2d"
    scope: ClassVar[str] = "U-Net"

    def __post_init__(self) -> None:
        check_fields(self, ("n_classes", "n_kernels", "n_blocks", "n_convs"), ("relu_on_logits",))

    @property
    def alignment(self) -> int:
        """Tiles whose corners differ by multiples of this pool alike."""
        return int(2**self.n_blocks)

    @property
    def fixed_depth(self) -> bool:
        """Slices are independent: any number of them can be a tile."""
        return False

    @property
    def context(self) -> int:
        """Slices at each end of an input that give none of the output: slices are independent."""
        return 0

    @property
    def reach(self) -> tuple[int, int, int]:
        """Distance (z, y, x) in voxels beyond which nothing influences an output voxel; an upper bound."""
        sides = (sum(2**b for b in range(self.n_blocks)) * 2 + 2**self.n_blocks) * self.n_convs
        yx = sides + sum(2**b for b in range(self.n_blocks))
        return (0, yx, yx)

    @property
    def halo(self) -> int:
        """Voxels at each side of an output region, in y and x, that do not have their whole context in the input."""
        return 0  # nothing is padded

    @property
    def margin(self) -> int:
        """Voxels lost at each side in y and x by an input that loses none to pooling."""
        return self.n_convs * (3 * 2**self.n_blocks - 2)

    @property
    def any_side(self) -> bool:
        """Whether no side of an input loses voxels: here only those that `residue` says lose none."""
        return False

    @property
    def residue(self) -> int:
        """Output sides that lose no voxel to pooling are this much above a multiple of `alignment`."""
        # The bottleneck of side n gives 2n, less what the convolutions take at each scale on the way up.
        return -2 * self.n_convs * sum(2**b for b in range(self.n_blocks)) % self.alignment

    def output_shape(self, shape: Shape) -> Shape:
        """Spatial output shape (z, y, x) of an input of spatial `shape`; sides below 1 mean that the input is too
        small.
        """
        z, y, x = shape
        return (z, self._round_trip(y), self._round_trip(x))

    def _round_trip(self, side: int) -> int:
        loss = 2 * self.n_convs
        skips = []
        for _ in range(self.n_blocks):
            side -= loss
            skips.append(side)
            side //= 2
        side -= loss
        while skips:
            side = min(2 * side, skips.pop()) - loss
        return side

    def layers(self) -> list[Layer]:
        """Every layer with tensors, in the order of the flow."""
        found: list[Layer] = []

        def convs(block: str, c: int, n: int, scale: int) -> int:
            for i in range(self.n_convs):
                found.append(Layer(f"{block}/comp_{i}/conv", (3, 3), c, n, scale))
                c = n
            return c

        c, skips = 1, []
        for b in range(self.n_blocks):
            c = convs(f"net/encoder/encode_block_{b}", c, self.n_kernels * 2**b, b)
            skips.append(c)
        b = self.n_blocks
        c = convs(f"net/decoder/decode_block_{b}", c, self.n_kernels * 2**b, b)
        for b in reversed(range(self.n_blocks)):
            n, block = self.n_kernels * 2**b, f"net/decoder/decode_block_{b}"
            found.append(Layer(f"{block}/comp_0/forward/upsample_conv", (2, 2), c, n, b, transposed=True))
            c = convs(block, skips[b] + n, n, b)
        found.append(Layer("predictor/logits", (1, 1), c, self.n_classes, 0))
        return found


Architecture = Hybrid2D3D | UNet2D | ResidualUNet


def tensor_shapes(architecture: Architecture) -> dict[str, Shape]:
    """Canonical name and shape of every tensor.

    Convolution kernels are [kz, ky, kx, c_in, c_out], transposed ones [kz, ky, kx, c_out, c_in]; 2D nets have no kz.
    """
    shapes: dict[str, Shape] = {}
    for layer in architecture.layers():
        channels = (layer.c_out, layer.c_in) if layer.transposed else (layer.c_in, layer.c_out)
        shapes[f"{layer.name}/kernel"] = (*layer.kernel, *channels)
        shapes[f"{layer.name}/bias"] = (layer.c_out,)
    return shapes


def n_parameters(architecture: Architecture) -> int:
    """Numbers in all tensors of one net (1.0e7 for the published 2D-3D net)."""
    return sum(prod(shape) for shape in tensor_shapes(architecture).values())


def flop_per_voxel(architecture: Architecture) -> float:
    """Floating-point operations of one net per output voxel (3.03e6 for the published 2D-3D net)."""
    return sum(layer.flop_per_voxel for layer in architecture.layers())


def live_channels(architecture: Architecture) -> float:
    """Channels of full resolution in memory at once, at most: what a tile costs, per voxel and per item size."""
    n, c = architecture.n_kernels, architecture.n_classes
    if isinstance(architecture, UNet2D):
        return 6.0 * n
    if isinstance(architecture, ResidualUNet):
        return 3.0 * n + 2 * (c + architecture.neighbours)
    k = architecture.pyramid_kernels
    paths = sum((n + c + 2 * k * 2**i) / 4**i for i in range(1, len(architecture.pyramid_convs)))
    return max(6.0 * n, (n + c) * 2 + 3 * k + paths)


def forward_bytes(architecture: Architecture, shape: Shape) -> int:
    """Memory that one net takes in float32 for an input of spatial `shape`, about."""
    return int(4 * prod(shape) * max(live_channels(architecture), 4 * architecture.n_classes))


def too_small(architecture: Architecture, shape: Sequence[int]) -> bool:
    """Whether nothing comes out of an input of spatial `shape` (z, y, x), or less than a net needs to halve it."""
    return min(architecture.output_shape(tuple(shape))) < 1 or min(shape[1:]) < architecture.alignment


def window_problem(architecture: Architecture, window: Sequence[Any]) -> str:
    """What keeps `window` from being an input window (z, y, x) of the training of a net; empty when nothing does."""
    if len(window) != 3 or any(not isinstance(n, int) or isinstance(n, bool) or n < 1 for n in window):
        return f"window is {str(list(window))[:80]}; expected 3 whole numbers above 0, (z, y, x)"
    if max(window) > _LARGEST_SIDE or forward_bytes(architecture, tuple(window)) > _LARGEST_FORWARD:
        needed = forward_bytes(architecture, tuple(window))
        return (
            f"window {list(window)} is too large: a net would need {needed:,} bytes for it; expected sides up to "
            f"{_LARGEST_SIDE:,} and at most {_LARGEST_FORWARD:,} bytes"
        )
    if too_small(architecture, window):
        return f"window {list(window)} is too small for the nets: nothing of it would come out"
    return ""


_FAMILIES: dict[str, type[Architecture]] = {f.family: f for f in (Hybrid2D3D, UNet2D, ResidualUNet)}


def published(family: str, n_classes: int = 7, n_kernels: int = 64) -> Architecture:
    """The configuration of the published nets of a family ("2d3d" or "unet2d"), every quirk on.

    Raises
    ------
    OptionError
        If no net of this family was published.
    """
    if family not in (Hybrid2D3D.family, UNet2D.family):
        raise OptionError(f"no net of the family {short(family)} was published; expected 2d3d or unet2d")
    return architecture_from_dict({"family": family, "n_classes": n_classes, "n_kernels": n_kernels})


def architecture_from_dict(config: JsonObject) -> Architecture:
    """Build a configuration from the `architecture` entry of a bundle manifest; the inverse of `architecture_to_dict`.

    Raises
    ------
    OptionError
        If the family or a field is unknown, a field is missing, or a value is outside its domain.
    """
    fields_given = dict(config)
    name = fields_given.pop("family", None)
    family = _FAMILIES.get(str(name))
    if family is None:
        raise OptionError(f"architecture family is {short(name)}; expected one of {', '.join(sorted(_FAMILIES))}")
    known = {f.name for f in fields(family)}
    unknown = sorted(set(fields_given) - known)
    if unknown:
        raise OptionError(
            f"architecture {name} has no field {printable(', '.join(unknown)[:80])}; expected "
            f"{', '.join(sorted(known))}"
        )
    if "n_classes" not in fields_given:
        raise OptionError(f"architecture {name} lacks n_classes")
    try:
        return family(**fields_given)
    except TypeError as error:
        raise OptionError(f"architecture {name} is malformed: {error}") from error


def architecture_to_dict(architecture: Architecture) -> JsonObject:
    """The configuration as JSON values, for the bundle manifest."""
    return {"family": architecture.family} | {
        key: list(value) if isinstance(value, tuple) else value for key, value in asdict(architecture).items()
    }


def layer_name(canonical: str) -> str:
    """Keras name of the layer with this canonical tensor prefix (Keras allows no "/" in names)."""
    return canonical.replace("/", ".")
