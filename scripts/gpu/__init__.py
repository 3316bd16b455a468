"""The sections of scripts/gpu_check.py: each is a function of the options and its lines."""
