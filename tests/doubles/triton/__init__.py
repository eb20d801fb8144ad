__version__ = "0-double"
