"""Floor 2: classifiers that change when they are used. One file is one defence, and its name is the file's."""
