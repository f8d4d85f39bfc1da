"""The golden set inside a Trainer."""
