"""Own many runs under one command: the jobs of a sweep, several at once, and the search for the best values.

Knows nothing of how a run is done (`dlwp.api` does it), nor of flags and exit statuses beyond a number.
"""
