"""Exact resume: what a checkpoint is, how it is written, sealed, verified, chosen and put back."""
