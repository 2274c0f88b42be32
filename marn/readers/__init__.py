"""Systems that read the text of a note: linear models, titles, marked phrases, ensembles."""
