"""The watched folder: stacks drop in, labels come out, for months, unattended (docs/design/0006)."""
