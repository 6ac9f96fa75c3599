"""Many runs: the points of a grid, where they run, the resulting table, and the claims judged by such tables."""
