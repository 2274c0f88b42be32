"""Systems that read notes with a transformer, one file each."""
