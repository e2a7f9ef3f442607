"""What a run shows: progress while it works, plots and one HTML page when it is done.

Everything here takes plain numbers and knows nothing of models. matplotlib is imported when a plot is drawn.
"""
