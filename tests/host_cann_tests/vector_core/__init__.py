"""The stand-in's vector instructions, each compared with numpy."""
