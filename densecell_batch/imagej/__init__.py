"""Everything Java."""
