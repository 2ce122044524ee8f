"""Data sets that other libraries read: one file, one library."""
