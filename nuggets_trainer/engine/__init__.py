"""Token ids -> log-probs under one model, by the fastest path that is right for it.

Does not know rows, templates, anchors or files.
"""
