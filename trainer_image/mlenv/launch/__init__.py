"""PID 1 of a trainer pod: ``python -m mlenv.launch -- program args``.

It starts the ranks, tells the operator how they fare, and obeys its answers. `core` decides and is pure;
`loop` holds the processes, pipes, signals and timers; `beats` speaks HTTP in a thread of its own.
Nothing here imports torch.
"""
