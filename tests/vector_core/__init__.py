"""The stand-in's vector instructions, each against numpy."""
