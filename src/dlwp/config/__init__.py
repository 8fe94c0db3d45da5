"""Words to a checked config: composing, checking, explaining. Knows neither torch nor what the parts do."""
