// Placeholder until the set-up is written.
