"""The checkpoints of the paper's authors: inspected, converted, compared with."""
