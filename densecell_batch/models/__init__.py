"""Trained models: what one is, and where it comes from."""
