"""Stream semantics: series, frames, the engine, the replay buffer. No I/O, no clock."""
