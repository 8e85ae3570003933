"""Manifests, as pure functions. Golden files in the tests show them whole."""
