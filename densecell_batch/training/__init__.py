"""Train nets on labelled stacks: volumes -> windows -> steps -> members -> bundle."""
