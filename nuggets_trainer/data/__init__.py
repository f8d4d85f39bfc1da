"""A dataset in any format -> rows with content hashes, or the reason why a row is unusable.

Does not know tokenizers, templates or models.
"""
