"""What a page says of a stack: plain data, whatever it was read from."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Amount", "StackEntry"]


@dataclass(frozen=True)
class Amount:
    """How much there is of a class."""

    colour: str  # #rrggbb
    voxels: int
    volume: float | None  # um3; None where the voxel size is not known
    share: float  # of the tissue, 0 to 1


@dataclass(frozen=True)
class StackEntry:
    """A stack and its results. What is not known is None, or empty."""

    name: str
    folder: str = ""  # of the results, as seen from the page
    model: str = ""  # name and version
    failed: str = ""  # why there are no results
    gone: bool = False  # the report is there, its labels are not
    corrected: bool = False  # a person changed the labels since: numbers are of those that the nets made
    slices: int = 0
    # How well it fits the model
    alike: bool | None = None
    fit: float | None = None  # at most 1 if alike
    unlike: tuple[str, ...] = ()  # in what, the worst first
    looks: dict[str, float] = field(default_factory=dict)  # the features that were measured of its image
    remedy: str = ""  # as what it would look alike, such as inverted
    remedied: bool = False  # and that was done
    # How sure the nets are
    confidence: float | None = None  # mean of the largest probability
    disagreement: float | None = None  # bits, in the windows that were tried
    own_disagreement: float | None = None  # bits; most of the model's own data have less
    # What was found
    outside: float | None = None  # share of the voxels
    damaged: dict[str, int] = field(default_factory=dict)  # kind -> slices
    damaged_slices: int = 0
    grey_mean: float | None = None  # of the tissue
    grey_deviation: float | None = None
    warnings: tuple[str, ...] = ()
    # What came of it
    classes: dict[str, Amount] = field(default_factory=dict)
    objects: dict[str, int] = field(default_factory=dict)  # class -> number
    # Where it is: addresses as a page at its place writes them
    files: dict[str, str] = field(default_factory=dict)  # what it is -> address
    preview: str = ""  # address
    thumbnail: bytes = b""  # JPEG

    @property
    def doubt(self) -> float | None:
        """Disagreement, as a share of what most of the model's own data stay below."""
        if self.disagreement is None or not self.own_disagreement:
            return None
        return self.disagreement / self.own_disagreement
