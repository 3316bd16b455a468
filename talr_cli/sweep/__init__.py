"""Many runs of one study: which runs a grid has, what is left to do, and where they are started."""
