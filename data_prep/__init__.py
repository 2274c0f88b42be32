"""Raw tables to corpora: one command line, `python -m data_prep`."""
