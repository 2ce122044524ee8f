"""Floor 2: what tells attacked images from others. One file is one detector, and its name is the file's."""
