"""Golden scores of a batch of rows, for engines of other projects: datasets, Ray Data, Spark, pandas.

Does not know a store or other processes: nothing is written, and no process waits for another. A batch is scored as if
no other existed.
"""
