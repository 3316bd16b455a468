"""Runs the grids and searches of a study: their runs, the plan of jobs, and their launchers."""
