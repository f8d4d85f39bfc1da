"""Token ids -> log-probs, under one model."""
