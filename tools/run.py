"""Entrance of the tasks, called by ``./run`` with the environment's Python."""

from tasks.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
