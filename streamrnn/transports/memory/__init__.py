"""A broker in memory with Kafka's promises, for the demo, tests and simulation."""
