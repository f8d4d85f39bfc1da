"""What will be read of a pool, before weights are loaded: format, rows as the model sees them, what is dropped.

Does not know model weights, scores or training.
"""
