"""What every other layer shares; needs the standard library only."""
