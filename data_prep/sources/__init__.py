"""Sources of corpora, one file each; `python -m data_prep` finds them."""
