"""Commands that measure on real images."""
