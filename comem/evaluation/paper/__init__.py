"""What the authors' code computed, bugs included, so that its printed numbers can be compared with."""
