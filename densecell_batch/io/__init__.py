"""Image stacks on disk."""
