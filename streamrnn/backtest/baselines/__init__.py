"""What a forecaster has to beat, under the same rules: one row at a time, labels only as rows."""
