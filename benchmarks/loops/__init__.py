"""Loops that train the same, for the benchmark ``checkpoint``."""
