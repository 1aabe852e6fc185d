"""What the exit codes mean; scripts and service managers rely on them."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    OK = 0
    BUG = 1  # an error nobody foresaw, with a traceback
    USAGE = 2  # the command line or the configuration cannot be used
    BROKER = 3  # the broker cannot be reached, refused us, or could not be brought back
    TOPIC = 4  # a topic is missing, or is not as it must be
    INPUT = 5  # a file cannot be read, or holds nothing to work on
    ADDRESS = 6  # the HTTP address is taken, or exposed without a token
    ROWS_REFUSED = 7  # a back-test ran and its scores stand, but rows of the file were refused (--allow-refused)
    ALIVE = 8  # a reset was refused: workers or trainers run
    MEMORY = 70  # the trainer grew beyond learn.memory_max_mb
    STUCK = 71  # the trainer hung and ended itself


def exit_code_of(error: Exception) -> ExitCode:
    """By class name where importing the class would load torch or aiokafka for a help text."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"ConfigError", "BadUse", "BadTarget", "DemoFailed"}:
        return ExitCode.USAGE
    if "GroupAlive" in names:
        return ExitCode.ALIVE
    if names & {"TopicMissing", "TopicUnfit"}:
        return ExitCode.TOPIC
    if "TransportError" in names:
        return ExitCode.BROKER
    if "InputError" in names:
        return ExitCode.INPUT
    if "ExposedError" in names:
        return ExitCode.ADDRESS
    if "OutOfMemoryBound" in names:
        return ExitCode.MEMORY
    if isinstance(error, OSError) and error.errno in (98, 48, 13):
        return ExitCode.ADDRESS
    return ExitCode.BUG
