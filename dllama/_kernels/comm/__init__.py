"""Communication: links to other nodes, and the collectives made of them."""
