"""Numbers from labels."""
