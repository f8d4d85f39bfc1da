"""A judge's verdicts on the answers of tuned models, and what they amount to: win rates, scores, the paper's table.

Does not know golden scores, training or the models that answered.
"""
