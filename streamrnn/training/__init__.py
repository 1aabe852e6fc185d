"""The trainer beside the workers, and who starts it."""
