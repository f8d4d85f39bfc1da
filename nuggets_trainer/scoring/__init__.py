"""The pairs of one pool under one model, over all processes.

Does not know selection rules, reports or training.
"""
