"""The network: cells, heads, truncated BPTT, the gate, weights as bytes. torch, but no files and no clock."""
