"""Many jobs at once on fake nodes: what benchmarks of whole operators have in common."""
