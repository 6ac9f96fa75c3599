"""Many runs: the points of a grid, where they run, the table that comes of it, and the claims judged by such tables."""
