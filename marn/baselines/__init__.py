"""Systems with released code that MARN is compared with, one file each."""
