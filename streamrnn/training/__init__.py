"""The trainer beside the workers; a worker starts it (`serving.supervisor`)."""
