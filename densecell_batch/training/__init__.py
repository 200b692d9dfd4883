"""Train 2D-3D nets on labelled stacks: volumes -> windows -> steps -> members -> bundle."""
