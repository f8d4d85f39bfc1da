"""Rows -> token ids: templates, a shared prefix, one suffix per anchor.

Does not know torch, models or scores.
"""
