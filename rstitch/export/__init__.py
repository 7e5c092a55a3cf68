"""Stored trajectories for those who analyse them: as rows, in files, once or as they come. It asks a router only."""
