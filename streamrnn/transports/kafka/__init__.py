"""Kafka by aiokafka: sources, sinks, administration, and what that client does not give."""
