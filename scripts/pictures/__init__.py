"""The pictures of the documents, drawn from the results that are kept: ``python -m scripts.pictures``."""
