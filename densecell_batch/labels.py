"""The label that is no class."""

__all__ = ["OUTSIDE"]

OUTSIDE = 255
"""Label of voxels that are no tissue. It is the highest of 8 bits, so a model has at most as many classes, 0 to 254. In
pictures they are black; the probability of each class is 0 there; and they are counted apart from the classes.
"""
