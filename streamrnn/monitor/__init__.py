"""What an operator sees: metrics, health, notices, the live page."""
