"""The loop, what survives a cut, and exact evaluation. Knows neither configs nor files."""
