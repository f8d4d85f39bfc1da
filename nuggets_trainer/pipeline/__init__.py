"""The stages composed: score a pool, check the scorer, select again.

Does not know TRL, trainers or the command line.
"""
