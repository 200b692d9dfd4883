"""What the macros are given: a stack with a voxel size, options, the name of a folder that is hard on them."""

import tifffile

VOXEL = (0.047, 0.0184, 0.0184)  # um, (z, y, x)
ODD = "stäcks, \"a\" 'b' [c] 漢"  # the name of a folder


def save(path, volume, unit="um"):
    metadata = {"axes": "ZYX"} | ({"spacing": VOXEL[0], "unit": unit} if unit else {})
    resolution = {"resolution": (1 / VOXEL[2], 1 / VOXEL[1])} if unit else {}
    tifffile.imwrite(path, volume, imagej=True, metadata=metadata, **resolution)
    return path


def options(**values):
    return " ".join(f"{key}=[{value}]" for key, value in values.items())
