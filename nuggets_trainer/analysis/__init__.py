"""What scores follow, how good a ranking is, and how far a difference can be trusted.

Does not know a model, a tokenizer or a Trainer.
"""
