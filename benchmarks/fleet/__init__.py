"""The parts of `scaling.py`: what a run did, the engine without its tensors, many devices, and what work costs."""
