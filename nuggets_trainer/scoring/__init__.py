"""The pairs of one pool under one model, over all processes."""
