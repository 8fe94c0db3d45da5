"""Use what was trained: from a run folder, or from published weights, to predictions and judgements."""
