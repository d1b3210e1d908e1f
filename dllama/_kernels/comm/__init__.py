"""Communication: links to other nodes, and collectives over them."""
