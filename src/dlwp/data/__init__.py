"""Data sets as splits of plain `Dataset`s, and the two ways to feed them. Knows neither models nor the trainer."""
