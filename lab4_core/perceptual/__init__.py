"""Measures that need weights trained elsewhere: LPIPS and FVD, and the network that FVD is taken with."""
