"""Several processes for one command: accelerate's launcher, or the part of a pool that a scheduler gives a job.

Does not know what the commands do: it reads their command lines and starts them.
"""
