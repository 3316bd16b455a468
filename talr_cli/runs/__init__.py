"""What a run leaves on disk: identity, directory, status, and the results of a study."""
