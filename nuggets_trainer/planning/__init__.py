"""How long a run will take, measured on some seconds of it, and what it will cost.

Does not know training, comparisons or commands.
"""
