"""AlpacaEval and MT-Bench of tuned models.

Does not know golden scores or training.
"""
