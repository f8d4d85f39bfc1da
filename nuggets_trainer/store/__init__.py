"""Everything on disk: scored pairs, results, run info."""
