"""Code that all other layers use. Imports the standard library only."""
