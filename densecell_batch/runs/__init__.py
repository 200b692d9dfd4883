"""One segmentation: a stack file in, finished files out."""
