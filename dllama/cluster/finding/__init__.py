"""Workers that are found on the local network, by multicast DNS."""
