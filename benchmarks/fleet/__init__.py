"""The parts of `scaling.py`: what a run did, the engine without its tensors, many devices, and what a piece of work costs."""
