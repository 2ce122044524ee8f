"""Floor 2: networks in plain torch. Images (N,C,H,W) in [0,1] -> logits (N,K); one file is one net."""
