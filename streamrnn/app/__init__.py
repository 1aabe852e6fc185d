"""Whole programs put together: the demo, and the compilation ahead of a start."""
