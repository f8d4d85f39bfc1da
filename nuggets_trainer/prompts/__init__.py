"""Rows -> token ids, and which of them are scored."""
