"""Which pairs to score next: races between the candidates, on arrays.

Does not know models, text, files or ranks; numpy and scipy are enough.
"""
