"""Runs the grid of a study: which runs it has, what is left to do, and where jobs are started."""
