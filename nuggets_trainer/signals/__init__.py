"""What each row shows by itself, without any pair: losses, IFD, similarity to the anchors, repetition.

Does not know selection rules, schedules, reports or training.
"""
