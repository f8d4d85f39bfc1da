"""A dataset in any format -> rows, each with a content hash or the reason it is unusable."""
