"""What lies on disk of a run, read and written without torch."""
