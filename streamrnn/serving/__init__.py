"""A worker: partitions, their states, and the way of a batch from poll to commit."""
