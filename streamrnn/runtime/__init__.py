"""The process itself: background tasks, signals, logs, limits of the machine, exit codes."""
