"""What several runs say together, and what one says when it is done again; read from their folders, without torch."""
