"""`comem` as a model of lmms-eval; nothing else of the package imports lmms-eval."""
