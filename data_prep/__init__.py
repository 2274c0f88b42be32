"""Prepare corpora from raw tables, with the command line `python -m data_prep`."""
