"""What lies on a topic nobody described: samples, a proposed `decode:`, and what it reads."""
