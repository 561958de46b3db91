"""Training loops that survive kills, evaluation, and the networks that come out of them."""
