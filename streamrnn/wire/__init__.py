"""From a record's bytes to ticks, and from outputs to bytes: every format, with no torch and no I/O."""
