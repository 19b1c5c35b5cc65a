"""`comem` as a model of lmms-eval, our benchmarks as its tasks; nothing else of the package imports lmms-eval."""
