"""How fast: ratios to the plain loop of `benchmarks/reference.py`, and minutes to a quality."""
