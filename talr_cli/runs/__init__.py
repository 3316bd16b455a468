"""The files of runs on disk: identity, directory, status, locks and results."""
