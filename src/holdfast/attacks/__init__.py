"""Floor 2: the searches for the worst perturbation. One file is one attack, and its name is the file's."""
