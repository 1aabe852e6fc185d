"""What is kept in compacted topics: series' states and weights."""
