"""What should happen to a job, as pure functions of what is known: no I/O, clock, randomness or logging."""
