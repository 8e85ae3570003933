"""The parts of ``benchmarks/recovery.py``: the program under test, both ways to run it, and arithmetic."""
