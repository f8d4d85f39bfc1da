"""Does selection pay? Arms, the runs that tune on them, their losses, and the verdict.

Does not know the command line.
"""
