"""A volume through a model."""
