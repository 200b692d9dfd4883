"""Containers of images, one file each: what `reading` chooses among."""
