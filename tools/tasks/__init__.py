"""What ``./run`` does: check, test, demonstrate and measure the whole repository."""
