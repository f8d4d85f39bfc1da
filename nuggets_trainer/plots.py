"""Figures -> PNG images for papers, by matplotlib (the extra `plot`). Knows no files."""
