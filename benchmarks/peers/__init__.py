"""The parts of `attacks_vs_peers.py`: models, pairings, libraries, measurements."""
