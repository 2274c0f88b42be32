"""The layers that systems are made of."""
