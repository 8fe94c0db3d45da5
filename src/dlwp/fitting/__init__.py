"""Fits by least squares: the solver, what a fit says of its parameters, and many fits at once."""
