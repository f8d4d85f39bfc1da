"""Everything on disk: scored pairs under a fingerprint, result files, run info.

Does not know how a score is computed or why a row is chosen.
"""
