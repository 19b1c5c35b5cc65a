"""`comem` as a model of lmms-eval, and our benchmarks as its tasks; only this package imports lmms-eval."""
