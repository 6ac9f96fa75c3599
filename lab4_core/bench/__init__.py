"""Speed: ratios to the plain loop of `benchmarks/reference.py`, and minutes of training to a quality."""
