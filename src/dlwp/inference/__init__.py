"""Own what is done with a run that was trained: from its folder to values, tables and pictures. Trains nothing."""
