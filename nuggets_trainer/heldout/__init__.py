"""What a tuned model is measured by: generated answers, and tasks of lm-evaluation-harness.

Does not know how a model was tuned.
"""
