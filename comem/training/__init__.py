"""Training of the memory: data set, collator, model, trainer, merge."""
