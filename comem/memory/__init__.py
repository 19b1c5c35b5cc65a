"""The memory: encoder, Q-Former, LoRA, bank, and the converter of released checkpoints."""
