"""What is found in a stack, and how the nets see it then."""

from pathlib import Path

import numpy as np
import pytest

from densecell_batch.calibration import VoxelSize
from densecell_batch.errors import OptionError, StackError
from densecell_batch.io.stack import Stack
from densecell_batch.prepare.examine import examine
from densecell_batch.prepare.mask import Mask
from densecell_batch.prepare.preparation import Aim, Steps, whole
from densecell_batch.prepare.prepared import Prepared

TRAINED = VoxelSize.of(50, 10, 10, unit="nm")
RANDOM = np.random.default_rng(0)


def textured(z: int = 4, y: int = 60, x: int = 70) -> np.ndarray:
    return RANDOM.integers(40, 210, (z, y, x)).astype(np.uint8)


def examined(volume: np.ndarray, voxel_size: VoxelSize | None = None, mask: np.ndarray | None = None, **steps):
    stack = Stack.of_array(volume, voxel_size)
    tissue = None if mask is None else Mask.of_array(mask, stack)
    aim = Aim(TRAINED, context=steps.pop("context", (0, 0, 0)))
    found = examine(stack, Steps(**steps), aim, tissue).preparation()
    return found, Prepared(stack, found, find=steps.get("outside", "auto") == "auto", mask=tissue)


def read(prepared: Prepared) -> np.ndarray:
    return np.stack([prepared.read(z, (0, prepared.shape[1])) for z in range(prepared.shape[0])])


def test_an_ordinary_stack_is_normalized_and_no_more() -> None:
    volume = textured()
    found, prepared = examined(volume)
    assert found.box == whole(volume.shape) == found.result
    assert found.grid == volume.shape
    assert not found.outside
    assert np.allclose(read(prepared), (volume - volume.mean()) / volume.std(), atol=1e-5)
    assert prepared.outside(0, (0, 60)) is None


def test_fill_is_outside_counts_in_no_statistic_and_is_not_seen() -> None:
    volume = textured()
    padded = np.pad(volume, ((1, 2), (12, 20), (9, 30)), constant_values=255)
    found, prepared = examined(padded)
    assert found.box == ((1, 5), (12, 72), (9, 79))
    assert found.statistics == examined(volume)[0].statistics
    assert np.array_equal(read(prepared), read(examined(volume)[1]))
    assert prepared.result_shape == padded.shape
    tissue = np.pad(np.ones(volume.shape, bool), ((1, 2), (12, 20), (9, 30)))
    for z in range(len(padded)):
        assert np.array_equal(~prepared.outside(z, (0, 92)), tissue[z])
        assert np.array_equal(~prepared.outside(z, (5, 40)), tissue[z, 5:40])


def test_a_blank_slice_has_a_stand_in() -> None:
    volume = textured(5)
    volume[2] = 0
    found, prepared = examined(volume)
    assert found.stand_ins == ((2, 1),)
    assert np.array_equal(prepared.read(2, (0, 60)), prepared.read(1, (0, 60)))
    assert prepared.outside(2, (3, 9)).all()


def test_fill_within_the_box_is_mirrored_tissue() -> None:
    volume = textured(2, 80, 80)
    volume[1, :, :40] = 0  # the other slice keeps the box as it is
    found, prepared = examined(volume)
    assert found.box == whole(volume.shape)
    seen = prepared.read(1, (0, 80))
    assert np.abs(seen[:, :38]).std() > 0.3
    assert np.array_equal(seen[:, 42:], read(examined(volume)[1])[1, :, 42:])


def test_outside_off_takes_all_as_tissue() -> None:
    padded = np.pad(textured(), ((0, 0), (12, 20), (9, 30)))
    found, prepared = examined(padded, outside="off")
    assert found.box == whole(padded.shape)
    assert found.statistics.minimum == 0
    assert prepared.outside(0, (0, 10)) is None


def test_a_mask_says_it_and_holds_for_all_slices_if_it_is_one() -> None:
    volume, mask = textured(), np.ones((1, 60, 70), bool)
    mask[:, :25] = False
    found, prepared = examined(volume, mask=mask, outside="off")
    assert found.box == ((0, 4), (25, 60), (0, 70))
    assert found.statistics.mean == pytest.approx(volume[:, 25:].mean())
    assert prepared.outside(3, (0, 60))[:25].all()
    assert not prepared.outside(3, (25, 60)).any()


@pytest.mark.parametrize("shape", [(2, 60, 70), (4, 60, 71), (1, 70, 60)])
def test_a_mask_of_another_shape_is_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(StackError, match=r"the mask is .* the stack is 4 x 60 x 70; expected the same shape"):
        examined(textured(), mask=np.ones(shape))


def test_a_mask_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(StackError, match="all of it is outside: no voxel of the mask is above 0"):
        examined(textured(), mask=np.zeros((4, 60, 70)))


def test_a_stack_of_blank_slices_is_refused() -> None:
    volume = np.zeros((3, 40, 40), np.uint8)
    with pytest.raises(StackError, match="every voxel is 0; expected an image with contrast"):
        examined(volume)
    volume[1] = 9
    with pytest.raises(StackError, match="all of it is outside: each slice is blank"):
        examined(volume)


@pytest.mark.parametrize(
    ("edges", "grid"),
    [
        ((50, 10, 10), (4, 60, 70)),
        ((50, 10.9, 9.2), (4, 60, 70)),  # within a tenth
        ((50, 20, 20), (4, 120, 140)),
        ((50, 6, 20), (4, 36, 140)),
        ((100, 8, 10), (4, 48, 70)),
    ],
)
def test_another_pixel_size_is_resampled_within_the_slice(edges, grid) -> None:
    found, prepared = examined(textured(), VoxelSize.of(*edges, unit="nm"))
    assert found.grid == prepared.shape == read(prepared).shape == grid
    assert prepared.result_shape == (4, 60, 70)


def test_what_would_be_too_small_is_refused() -> None:
    with pytest.raises(OptionError, match="its 60 voxels along y are 30, fewer than the 32"):
        examined(textured(), VoxelSize.of(50, 5, 10, unit="nm"))


def test_what_is_said_about_voxel_sizes() -> None:
    assert examined(textured(), TRAINED)[0].warnings == ()
    assert "no voxel size" in examined(textured())[0].warnings[0]
    assert "--scale 2,1,1" in examined(textured(), VoxelSize.of(100, 10, 10, unit="nm"))[0].warnings[0]
    off = examined(textured(), VoxelSize.of(50, 20, 20, unit="nm"), scale="off")[0]
    assert off.grid == (4, 60, 70)
    assert "differ by a factor of 2.00" in off.warnings[0]
    wrong = examined(textured(), VoxelSize.of(50, 1000, 1000, unit="nm"))[0]
    assert wrong.grid == (4, 60, 70)
    assert "give the true one with --voxel-size" in wrong.warnings[0]


def test_a_factor_is_taken_as_it_is() -> None:
    assert examined(textured(), scale=(0.5, 2.0, 2.0))[0].grid == (2, 120, 140)


def test_rows_of_a_resampled_slice_are_those_of_the_whole() -> None:
    volume = np.pad(textured(), ((0, 0), (8, 8), (0, 0)))
    volume[2, :, :20] = 0
    _, prepared = examined(volume, scale=(0.7, 1.4, 0.8))
    for z in range(prepared.shape[0]):
        slice_ = prepared.read(z, (0, prepared.shape[1]))
        for rows in ((0, 1), (10, 37), (prepared.shape[1] - 5, prepared.shape[1])):
            assert np.array_equal(prepared.read(z, rows), slice_[slice(*rows)])


def test_a_region_is_seen_with_what_decides_about_it() -> None:
    region = ((1, 2), (20, 40), (30, 60))
    found, prepared = examined(textured(), roi=region, context=(2, 8, 12))
    assert found.box == ((0, 4), (12, 48), (18, 70))
    assert prepared.result_shape == (1, 20, 30)


@pytest.mark.parametrize("region", [((0, 5), (0, 9), (0, 9)), ((0, 1), (60, 61), (0, 9)), ((0, 1), (0, 9), (5, 71))])
def test_a_region_beyond_the_stack_is_refused(region) -> None:
    with pytest.raises(OptionError, match=r"--roi asks for . from .* to .*the stack has 0 to"):
        examined(textured(), roi=region)


def test_a_region_without_tissue_is_refused() -> None:
    padded = np.pad(textured(), ((0, 0), (0, 40), (0, 0)))
    with pytest.raises(OptionError, match="--roi asks for a region without tissue"):
        examined(padded, roi=((0, 4), (70, 100), (0, 70)))


def test_a_record_that_was_read_is_checked(tmp_path: Path) -> None:
    import msgspec

    volume = textured()
    volume[1] = 0
    found, _ = examined(volume)
    assert found.is_sound
    assert msgspec.convert(msgspec.json.decode(msgspec.json.encode(found)), type(found)) == found
    for changes in (
        {"box": ((0, 4), (0, 61), (0, 70))},
        {"grid": (4, 0, 70)},
        {"outside": (1,)},
        {"stand_ins": ((0, 4),)},
    ):
        assert not msgspec.structs.replace(found, **changes).is_sound


def test_a_region_beside_the_tissue_is_refused_though_tissue_is_near() -> None:
    mask = np.ones((1, 60, 70), bool)
    mask[:, :, :30] = False
    with pytest.raises(OptionError, match="--roi asks for a region without tissue"):
        examined(textured(), mask=mask, roi=((0, 4), (0, 60), (0, 30)), context=(4, 20, 20))


@pytest.mark.parametrize("edges", [(47, 1e-300, 1e-300), (47, 1e5, 1e5), (1e200, 10, 10)])
def test_voxel_sizes_that_cannot_be_are_left_alone(edges) -> None:
    assert examined(textured(), VoxelSize.of(*edges, unit="nm"))[0].grid == (4, 60, 70)


def test_a_region_of_which_a_slice_has_no_tissue() -> None:
    volume = textured()
    volume[2, :, :40] = 0
    _, prepared = examined(volume, roi=((0, 4), (0, 60), (0, 30)))
    assert prepared.outside(2, (0, 60)).all()
    assert not prepared.read(2, (0, 60)).any()
    assert prepared.read(1, (0, 60)).any()
