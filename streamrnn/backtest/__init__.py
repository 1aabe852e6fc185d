"""A file row by row through the same engine and learner, and its scores."""
