"""What goes past the paper, on the embedded world: `python -m benchmarks.ablation_past --help`."""
