"""Floor 2: perturbation sequences of images. One file is one perturbation, its tables inside; its name is the file's."""
