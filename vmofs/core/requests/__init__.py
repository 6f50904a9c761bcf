"""Who waits for what, and who is asked: calls, page requests, ports, and the system that has them all."""
