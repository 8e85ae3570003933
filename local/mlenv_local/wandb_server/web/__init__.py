"""The page for people: runs, artifacts and lineage as HTML that a browser shows without any script."""
