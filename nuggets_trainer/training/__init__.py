"""The golden set inside a Trainer: SelectedSFTTrainer, the callback, the main job.

Does not know the command line.
"""
