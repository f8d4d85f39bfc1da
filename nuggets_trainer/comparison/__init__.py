"""Does selection pay? Arms, losses, reliability, and what a score follows.

Does not know the command line.
"""
