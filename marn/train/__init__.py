"""Training: settings, the loop, checkpoints, recipes, and estimates of time and memory."""
