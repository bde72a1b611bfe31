"""What turns features into predictions: a compiled plan, or the original estimator."""
