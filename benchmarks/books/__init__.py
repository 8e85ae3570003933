"""Ledgers filled with made-up facts, for the benchmark of the ledger."""
