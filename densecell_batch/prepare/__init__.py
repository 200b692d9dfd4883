"""What is done to a stack before the nets see it."""
