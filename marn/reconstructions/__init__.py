"""Systems without released code, rebuilt from their papers, one file each."""
