"""Measures that need weights trained elsewhere: LPIPS and FVD, and I3D, the usual network for FVD."""
