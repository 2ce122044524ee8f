"""Floor 2: common corruptions of images. One file is one corruption, its severity tables inside; its name is the file's."""
