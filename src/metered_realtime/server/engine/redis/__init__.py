"""The engine of nodes on many machines. `engine` has its face, docs/cluster.md its layout in Redis."""
