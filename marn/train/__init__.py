"""Training: settings, the loop, what it takes."""
