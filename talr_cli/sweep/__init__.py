"""Many runs of one study: which they are, what is left to do of them, where they are made."""
