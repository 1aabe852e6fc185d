"""Settings, the topics they need, and what they cost."""
