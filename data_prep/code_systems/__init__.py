"""ICD-9-CM, ICD-10-CM and their categories."""
