"""A training job, its courier and a W&B server in all kinds of states, for the benchmark ``wandb``."""
