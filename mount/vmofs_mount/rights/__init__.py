"""Who may do what: identities of processes, and paths looked up with their rights."""
