"""Evaluation: ``bits_per_byte`` scores a model on held-out text, ``bigram`` gives the bar to clear."""
