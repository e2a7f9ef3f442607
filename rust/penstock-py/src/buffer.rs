//! Batches as numpy arrays over memory that goes back to the stream's pool when numpy lets go of it.
