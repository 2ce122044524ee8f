"""Floor 1: operations on batches of images that several rooms use: blurs, warps, colour, compression. Pure tensor maths."""
