"""ELF: facts, edits, and the patcher that applies them.  The words are those of the System V gABI."""
