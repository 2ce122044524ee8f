"""Floor 2: what training minimises. One file is one objective, and its name is the file's."""
