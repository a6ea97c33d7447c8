"""The tables: one file for each counterpart of a table of the paper, and two checks beyond it."""
