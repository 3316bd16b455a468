"""Runs programs that a model wrote: `outside` starts them, `inside` and `calls` contain them."""
