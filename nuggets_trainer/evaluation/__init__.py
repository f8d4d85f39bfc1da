"""The answers of tuned models to AlpacaEval and MT-Bench, in the files of the official tools.

Does not know golden scores, training or judges.
"""
