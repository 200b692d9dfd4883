"""Pages for people: templates, and functions that fill them with plain data."""
