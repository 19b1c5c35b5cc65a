"""The report: runs over benchmarks and modes beside the paper's printed numbers."""
