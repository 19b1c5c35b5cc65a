"""Kills, damage, fuzz and hardship for every long job, with a verdict for every trial.

`python -m tests.robustness --rounds N` runs it for as long as one likes; docs/reliability.md has the figures.
"""
