"""Those that hear what happens in a run, each a file. None of them steers the loop, but by returning `Stop`."""
