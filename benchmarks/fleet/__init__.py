"""A fleet of jobs and launchers that exists only in this process, for benchmarks of the operator."""
