"""Tables that train models: short runs with changes of one thing, measured and compared."""
