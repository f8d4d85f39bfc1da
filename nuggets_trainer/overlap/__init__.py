"""Rows that repeat each other, and rows that repeat the questions of a test.

Does not know models, tokenizers or scores: it compares words.
"""
