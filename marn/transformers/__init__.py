"""Systems over a transformer, one file each."""
