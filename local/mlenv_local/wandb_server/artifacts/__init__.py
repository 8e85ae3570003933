"""Artifacts: pure rules (manifest, naming, filters, paging), and what is stored, over one connection each."""
