"""Selection: cross-validation, its optimism, and searches at equal cost, on real data."""
